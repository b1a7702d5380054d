//! The command under test: the product's own entry point.

fn main() -> std::process::ExitCode {
    headwater::main()
}
