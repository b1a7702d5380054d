//! Python environments of the tests' own: made once beside the build, with pinned packages.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Readers of Parquet and Delta that no one here wrote.
pub const READERS: [&str; 3] = ["duckdb==2.0.0", "pyarrow==26.0.1", "deltalake==1.6.6"];

/// Servers of AWS's interfaces, and AWS's own code for the KPL's format.
pub const SERVERS: [&str; 4] = ["moto[server]==5.2.5", "boto3==1.44.5", "aws_kinesis_agg==1.2.3", "protobuf==7.36.2"];

/// Returns the Python that has these packages. The environment is made below `folder` when it is not there: of an
/// integration test that is `env!("CARGO_TARGET_TMPDIR")`.
pub fn with_packages(folder: &str, name: &str, packages: &[&str]) -> PathBuf {
    /// Tests of one process ask at the same time.
    static MAKING: Mutex<()> = Mutex::new(());
    let _one = MAKING.lock().unwrap_or_else(|broken| broken.into_inner());
    let environment = Path::new(folder).join(name);
    let python = environment.join("bin/python");
    let marker = environment.join(packages.join(","));
    if !marker.exists() {
        let run = |program: &Path, words: &[&str]| {
            let output = Command::new(program).args(words).output().expect("python3 is needed for these tests");
            assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        run(Path::new("python3"), &["-m", "venv", "--clear", environment.to_str().expect("a UTF-8 path")]);
        run(&python, &[&["-m", "pip", "install", "--quiet", "--disable-pip-version-check"][..], packages].concat());
        std::fs::write(&marker, "").expect("note that the packages are there");
    }
    python
}
