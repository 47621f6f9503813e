//! Quiesces applications for an agent, and lets them go whatever becomes of it. Started by the library, never by hand.

fn main() -> std::process::ExitCode {
    hrl_quiesce::run_watchdog()
}
