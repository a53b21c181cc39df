//! The `statehold` command.

mod collecting;
mod commands;
mod comparison;
mod connection;
mod duration;
mod environment;
mod exit;
mod output;
mod places;
mod progress;
mod report;
mod typed_path;
mod when;

use std::process::ExitCode;

use clap::Parser as _;

use commands::Cli;
use exit::{Exit, hint};

/// A scan makes and drops a few small pieces of memory for every file, on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _gone = error.print();
            // Help and version are answers and not mistakes.
            return if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Done
            }
            .into();
        }
    };
    let output = cli.output();
    output::start_logging(output, cli.is_server());
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) => {
            let exit = Exit::of_error(&error);
            if output.json {
                let message = format!("{error:#}");
                output::Output {
                    json: true,
                    quiet: false,
                }
                .value(&serde_json::json!({
                    "error": message, "exit": exit as u8, "hint": hint(&error),
                }));
            }
            output::complain(&format!("statehold: {error:#}"));
            if let Some(hint) = hint(&error) {
                output::complain(&format!("hint: {hint}"));
            }
            exit.into()
        }
    }
}
