//! Configuration files: parsed once, validated, frozen; unknown keys refused with the nearest name.
