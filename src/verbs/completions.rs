//! `headwater completions`.

use clap::CommandFactory;

use crate::cli::{Cli, Completions};

/// Prints a completion script.
pub(crate) fn run(options: &Completions) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Cli::command(), "headwater", &mut script);
    crate::write_out(String::from_utf8_lossy(&script).trim_end())
}
