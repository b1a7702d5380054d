//! `headwater demo`: the whole way on sample data, through the same code as the verbs.

use anyhow::Context;
use clap::Parser;
use headwater_common::clock::{Clock, SystemClock};

use crate::cli::{Cli, Command, Demo};

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
    let cli = Cli::try_parse_from(arguments).context("the demo's own command line")?;
    match cli.command {
        Command::Demo(_) => unreachable!("the demo does not run itself"),
        command => Box::pin(super::run(command, cli.global)).await,
    }
}

fn shell_word(word: &str) -> String {
    if word.contains([' ', '*', '(']) { format!("\"{word}\"") } else { word.to_owned() }
}
