//! Tells a waiting operator what is being waited for: a spinner at a terminal, a line per change elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use curve_telemetry::say_error;
use indicatif::{ProgressBar, ProgressStyle};

/// What is waited for, on standard error. Removed when dropped.
pub struct Progress {
    spinner: Option<ProgressBar>,
    said: String,
}

impl Progress {
    /// Nothing is shown until something is said.
    pub fn start() -> Self {
        let spinner = std::io::stderr().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template("{spinner} {elapsed} {msg}").expect("a constant template");
            let bar = ProgressBar::new_spinner().with_style(style);
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { spinner, said: String::new() }
    }

    /// Says what is waited for now.
    pub fn say(&mut self, what: &str) {
        if self.said == what {
            return;
        }
        self.said = what.to_owned();
        match &self.spinner {
            Some(bar) => bar.set_message(what.to_owned()),
            None => say_error!("waiting: {what}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.spinner {
            bar.finish_and_clear();
        }
    }
}
