//! Typed confirmation of destroying commands.
//!
//! At a terminal the operator types the name of what will be destroyed. Without a terminal there is nobody to ask, and
//! the command does what it says, so that the documented commands work in scripts; `--dry-run` shows what would happen.

use std::io::{BufRead, IsTerminal, Write};

use crate::failure::{Code, Failure};

/// Asks at the terminal for `expected` to be typed. `--yes` and the absence of a terminal skip the question.
pub fn confirm(what: &str, expected: &str, yes: bool) -> Result<(), Failure> {
    if yes || !std::io::stdin().is_terminal() {
        return Ok(());
    }
    let mut stdin = std::io::stdin().lock();
    ask(what, expected, &mut stdin, &mut std::io::stderr())
}

fn ask(what: &str, expected: &str, input: &mut impl BufRead, output: &mut impl Write) -> Result<(), Failure> {
    let refused = || {
        Failure::new(Code::NotConfirmed, format!("not confirmed: {what}"))
            .try_this(format!("type {expected} when asked, or pass --yes"))
    };
    let _ = write!(output, "{what}\nThis cannot be undone. Type {expected} to go on: ");
    let _ = output.flush();
    let mut line = String::new();
    input.read_line(&mut line).map_err(|_| refused())?;
    if line.trim() == expected { Ok(()) } else { Err(refused()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_name_confirms() {
        for (typed, accepted) in [("/demo\n", true), ("yes\n", false), ("", false), (" /demo \n", true)] {
            let result = ask("removes /demo", "/demo", &mut typed.as_bytes(), &mut Vec::new());
            assert_eq!(result.is_ok(), accepted, "{typed:?}");
        }
    }
}
