//! The command `headwater`. All of it is in the library beside this file, so that tests can build it too.

fn main() -> std::process::ExitCode {
    headwater::main()
}
