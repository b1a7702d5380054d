//! `headwater demo`: the whole way on sample data, through the same code as the verbs.

use anyhow::Context;
use clap::Parser;
use headwater_common::clock::{Clock, SystemClock};

use crate::cli::{Cli, Command, Demo};
use crate::config::{self, Arguments, Refused};

/// The sample that comes with the program: bicycle rides of two weeks.
const SAMPLE: &str = include_str!("../../samples/rides.csv");

const QUERIES: [(&str, &str); 3] = [
    ("How many rides, and how far?", "SELECT count(*) AS rides, round(sum(distance_km), 1) AS km FROM rides"),
    (
        "Where do rides begin?",
        "SELECT station, count(*) AS rides, round(avg(minutes), 1) AS minutes FROM rides GROUP BY station ORDER BY \
         rides DESC, station LIMIT 5",
    ),
    (
        "One day only: partitions that cannot match are not opened",
        "SELECT day, count(*) AS rides, sum(CASE WHEN member THEN 1 ELSE 0 END) AS by_members FROM rides WHERE day = \
         14 GROUP BY day",
    ),
];

/// What changes in the second half: short rides are left out, and there is a speed.
const CHANGED: &str = r#"[transform]
sql = "SELECT *, round(distance_km / (minutes / 60.0), 1) AS km_per_hour FROM events WHERE minutes >= 5"
"#;

/// The same question before and after.
const ANSWER: &str = "SELECT count(*) AS rides, min(minutes) AS shortest, round(avg(minutes), 2) AS average FROM rides";

/// Shows the whole way and ends with what to try next.
pub(crate) async fn run(options: Demo) -> anyhow::Result<()> {
    let began = SystemClock.now();
    let folder = match options.folder {
        Some(folder) => folder,
        None => tempfile::Builder::new().prefix("headwater-demo-").tempdir().context("make a folder")?.keep(),
    };
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let at = |name: &str| folder.join(name).display().to_string();
    let (csv, stream, lake) = (at("rides.csv"), format!("log:{}", at("stream")), at("lake"));
    std::fs::write(&csv, SAMPLE).with_context(|| format!("write {csv}"))?;

    let produce = vec![
        "produce".into(),
        csv.clone(),
        "--to".into(),
        stream.clone(),
        "--key".into(),
        "station".into(),
        "--shards".into(),
        "2".into(),
        "--progress-file".into(),
        at("produce.json"),
        "--reject-file".into(),
        at("rejects.ndjson"),
    ];
    let consume = vec![
        "consume".into(),
        "--from".into(),
        stream.clone(),
        "--lake".into(),
        lake.clone(),
        "--table".into(),
        "rides".into(),
        "--time-field".into(),
        "started_at".into(),
        "--until-caught-up".into(),
    ];
    let fresh = !folder.join("stream").exists();
    if fresh {
        step("a CSV becomes a stream", produce).await?;
    }
    step("the stream becomes a table, exactly once", consume.clone()).await?;
    for (question, sql) in QUERIES {
        step(question, vec!["query".into(), sql.to_owned(), "--lake".into(), lake.clone()]).await?;
    }
    step("every event is accounted for", vec!["verify".into(), "--full".into(), "--lake".into(), lake.clone()]).await?;

    let config = at("changed.toml");
    std::fs::write(&config, CHANGED).with_context(|| format!("write {config}"))?;
    crate::say(&format!("\n# the logic changes: {config}\n{}", CHANGED.trim_end()));
    let answer = || vec!["query".into(), ANSWER.to_owned(), "--lake".into(), lake.clone()];
    let replay = |verb: &str| {
        let words = ["replay", verb, "--config", &config, "--from", &stream, "--lake", &lake, "--table", "rides"];
        words.map(str::to_owned).to_vec()
    };
    let compare = ["replay", "compare", "--lake", &lake, "--table", "rides"].map(str::to_owned).to_vec();
    step("the table is built again from the stream, beside the live one", replay("run")).await?;
    step("the two are compared, window by window", compare).await?;
    step("readers still see the old one", answer()).await?;
    step("the new one becomes live, without a gap", replay("cutover")).await?;
    step("and the answer changes", answer()).await?;
    step("back again", replay("rollback")).await?;
    step("to the old answer", answer()).await?;

    let seconds = SystemClock.now().since(began).as_secs_f64();
    crate::say(&format!("\nThat took {seconds:.1} s. All of it is in {}. Try next:", folder.display()));
    crate::say(&format!("  headwater query \"SELECT * FROM rides LIMIT 5\" --lake {lake}"));
    crate::say(&format!("  headwater status --from {stream} --lake {lake}"));
    crate::say(&format!("  headwater produce {csv} --to {stream} --rate 500/s --loop   # and, in another shell:"));
    crate::say(&format!("  headwater {}", consume[..consume.len() - 1].join(" ")));
    Ok(())
}

/// Says what is done, as it would be typed, and does it.
async fn step(what: &str, words: Vec<String>) -> anyhow::Result<()> {
    let shown: Vec<_> = words.iter().map(|word| shell_word(word)).collect();
    crate::say(&format!("\n# {what}\n$ headwater {}", shown.join(" ")));
    let arguments = std::iter::once("headwater".to_owned()).chain(words);
    // Nothing of the user's own settings counts here, but for a step that names a file.
    let cli = match shown.iter().any(|word| word == "--config") {
        false => Cli::try_parse_from(arguments).context("the demo's own command line")?,
        true => match config::parse(arguments.map(Into::into).collect()) {
            Ok(Arguments::Run(cli)) => *cli,
            Ok(Arguments::PrintConfig(_)) => unreachable!("the demo does not ask for it"),
            Err(Refused::Usage(error)) => return Err(error).context("the demo's own command line"),
            Err(Refused::Config(error)) => return Err(error.into()),
        },
    };
    match cli.command {
        Command::Demo(_) => unreachable!("the demo does not run itself"),
        command => Box::pin(super::run(command, cli.global)).await,
    }
}

fn shell_word(word: &str) -> String {
    if word.contains([' ', '*', '(']) { format!("\"{word}\"") } else { word.to_owned() }
}
