//! Quiesces applications for an agent, and releases them whatever happens to it. The library starts
//! it, never a person.

fn main() -> std::process::ExitCode {
    hrl_quiesce::run_watchdog()
}
