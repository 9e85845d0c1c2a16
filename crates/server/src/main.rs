//! The binary `outboard`: the only place where everything is put together.

mod cli;
mod output;

mod config;
mod telemetry;

mod address;
mod api;
mod echo;
mod forward;
mod metrics;
mod serve;
mod storage;
mod up;

mod doctor;
mod verify;

mod bench;
mod client;

fn main() -> std::process::ExitCode {
    cli::run()
}
