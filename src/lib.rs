//! The command line: one file a verb under `verbs`, thin; what they do is in the crates.
//!
//! [`cli`] says what can be asked, [`config`] where each setting comes from, [`definition`] what only the file can say of
//! a pipeline, `telemetry` and `signals` how the process talks and stops, `fullness` what is about to fill up,
//! `allocator` how much memory threads keep. Data goes to standard output, everything else to standard error.

mod allocator;
pub mod cli;
mod cli_leases;
mod cli_produce;
mod cli_replay;
pub mod config;
pub mod definition;
mod fullness;
mod progress;
mod signals;
mod telemetry;
mod verbs;

use std::process::ExitCode;

use crate::cli::Command;
use crate::config::Arguments;

/// Runs the command and returns its exit code: 0 done, 1 the work failed, 2 wrong usage or configuration.
#[must_use]
pub fn main() -> ExitCode {
    allocator::keep_one_arena();
    let cli = match config::parse(std::env::args_os().collect()) {
        Ok(Arguments::Run(cli)) => *cli,
        Ok(Arguments::PrintConfig(listing)) => return finish(write_out(&listing)),
        Err(config::Refused::Usage(error)) => {
            // Also `--help` and `--version` come this way; clap knows where they belong.
            let code = if error.use_stderr() { 2 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
        Err(config::Refused::Config(error)) => {
            say(&format!("error: {error:#}"));
            return ExitCode::from(2);
        }
    };
    telemetry::start_logging(&cli.global);
    let result = match cli.command {
        Command::Completions(options) => verbs::completions::run(&options),
        command => tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(anyhow::Error::from)
            .and_then(|runtime| runtime.block_on(verbs::run(command, cli.global))),
    };
    finish(result)
}

fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let code = if error.is::<config::BadSetting>() { 2 } else { 1 };
            say(&format!("error: {error:#}"));
            ExitCode::from(code)
        }
    }
}

/// Who reads us may have had enough; that is no error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

/// Writes data to standard output.
pub(crate) fn write_out(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}

/// Writes a line to standard error; when that is closed there is nobody to tell.
pub(crate) fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}
