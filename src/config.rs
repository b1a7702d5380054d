//! Where each setting comes from: the flag, else the environment, else `headwater.toml`, else the default.
//!
//! In the file a key is the flag with underscores. At the top level it counts for every verb that has it; in a section
//! named after a verb it counts for that one: `lake = "…"`, `[consume] flush_rows = 5000`. Of a verb that has verbs of
//! its own, `[replay]` counts for all of them and `[replay.run]` for one. An unknown key or a malformed value is an
//! error that names it. The sections `[columns]` and `[transform]` are the pipeline's; see [`crate::definition`].

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, CommandFactory, FromArgMatches};
use toml::Value;

use crate::cli::{Cli, Command, Replay, ReplayCommand, ReplayPlan, ReplayRun};
use crate::definition::{self, Definition};

/// The file that is read when no other is named.
const FILE: &str = "headwater.toml";

/// Settings that are not for a file or the environment: they say what to do, not how.
const FLAGS_ONLY: [&str; 4] = ["config", "print_config", "help", "version"];

/// Settings that say which table there is and how it is made. What stands of them under `[consume]` counts for `replay`
/// as well: it builds the same table.
const OF_TABLE: [&str; 10] = [
    "from",
    "lake",
    "table",
    "log_map_size",
    "id_field",
    "time_field",
    "time_format",
    "missing_time",
    "max_future",
    "partition_by",
];

/// What the user wants.
pub enum Arguments {
    /// A verb's work; the command line with everything filled in.
    Run(Box<Cli>),
    /// The effective settings and nothing else, as a text.
    PrintConfig(String),
}

/// Why there is nothing to do.
pub enum Refused {
    /// The command line; also help and version.
    Usage(clap::Error),
    /// The configuration file.
    Config(BadSetting),
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadSetting {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {reason}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A key that no verb has.
    #[error("{path}: there is no setting `{key}`{hint}", path = .path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What might have been meant.
        hint: String,
    },
    /// A value of another kind.
    #[error("{path}: `{key}` has a value that is no text, number, boolean or list of them", path = .path.display())]
    BadValue {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A pipeline that cannot be.
    #[error("{path}: {reason}", path = .path.display())]
    Pipeline {
        /// The file.
        path: PathBuf,
        /// Which key, and why.
        reason: String,
    },
    /// A setting that cannot be.
    #[error("{0}")]
    Other(String),
}

/// Parses the command line, the environment and the file.
///
/// # Errors
/// When any of them is wrong, naming the flag or the key.
pub fn parse(arguments: Vec<OsString>) -> Result<Arguments, Refused> {
    let file = ConfigFile::load(&arguments).map_err(Refused::Config)?;
    file.check_keys().map_err(Refused::Config)?;
    let definition = file.definition().map_err(Refused::Config)?;
    let mut command = with_sources(&file).map_err(Refused::Config)?;
    // Looked for before the parsing: clap checks what a verb requires before it knows of the flags ahead of the verb.
    if arguments.iter().any(|argument| argument == "--print-config") {
        command = without_required_operands(command);
    }
    let matches = command.try_get_matches_from(arguments).map_err(Refused::Usage)?;
    if matches.get_flag("print_config") {
        return Ok(Arguments::PrintConfig(listing(&matches, &file, &definition)));
    }
    let mut cli = Cli::from_arg_matches(&matches).map_err(Refused::Usage)?;
    let given = given(&matches, &file);
    // Without a file nothing is said of the definition, neither that there is one nor that there is none.
    let stated = file.is_there.then(|| definition.clone());
    match &mut cli.command {
        Command::Consume(options) => (options.given, options.definition) = (given, definition),
        Command::Replay(Replay { command: ReplayCommand::Plan(ReplayPlan { what, .. }) }) => what.definition = stated,
        Command::Replay(Replay { command: ReplayCommand::Run(ReplayRun { what, .. }) }) => what.definition = stated,
        _ => {}
    }
    Ok(Arguments::Run(Box::new(cli)))
}

/// The content of the configuration file; empty when there is none.
struct ConfigFile {
    path: PathBuf,
    is_there: bool,
    content: BTreeMap<String, Value>,
}

impl ConfigFile {
    fn load(arguments: &[OsString]) -> Result<Self, BadSetting> {
        let named = named_file(arguments);
        let path = named.clone().unwrap_or_else(|| FILE.into());
        let bad = |reason: String| BadSetting::File { path: path.clone(), reason };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(bad(error.to_string())),
        };
        let is_there = text.is_some();
        let content = toml::from_str(&text.unwrap_or_default());
        let content = content.map_err(|error| bad(error.to_string().trim_end().to_owned()))?;
        Ok(Self { path, is_there, content })
    }

    /// Returns what the file says of a verb's setting: the innermost section before those around it, the top level last.
    fn get(&self, verbs: &[String], key: &str) -> Option<&Value> {
        let is_of_table = verbs.first().is_some_and(|verb| verb == "replay") && OF_TABLE.contains(&key);
        let consume = self.content.get("consume").and_then(Value::as_table).filter(|_| is_of_table);
        let top = self.content.get(key).filter(|value| !value.is_table());
        let mut found = consume.and_then(|section| section.get(key)).or(top);
        let mut section = None;
        for verb in verbs {
            let inner = match section {
                None => self.content.get(verb),
                Some(section) => toml::Table::get(section, verb),
            };
            let Some(table) = inner.and_then(Value::as_table) else {
                break;
            };
            found = table.get(key).filter(|value| !value.is_table()).or(found);
            section = Some(table);
        }
        found
    }

    fn definition(&self) -> Result<Definition, BadSetting> {
        Definition::read(&self.content).map_err(|reason| BadSetting::Pipeline { path: self.path.clone(), reason })
    }

    fn check_keys(&self) -> Result<(), BadSetting> {
        self.check_section("", self.content.iter(), &Cli::command())
    }

    /// Checks the keys of a section, and of those in it; `command` is what the section is named after.
    fn check_section<'a>(
        &self,
        prefix: &str,
        section: impl Iterator<Item = (&'a String, &'a Value)>,
        command: &clap::Command,
    ) -> Result<(), BadSetting> {
        let known = settings_within(command);
        for (key, value) in section {
            let full = format!("{prefix}{key}");
            match value.as_table() {
                // Any name may be that of a field.
                Some(_) if prefix.is_empty() && key == definition::COLUMNS => {}
                Some(inner) if prefix.is_empty() && key == definition::TRANSFORM => {
                    let known = || std::iter::once(definition::SQL.to_owned());
                    if let Some(other) = inner.keys().find(|inner| *inner != definition::SQL) {
                        return Err(self.unknown(&format!("{key}.{other}"), known()));
                    }
                }
                // What every verb has stands at the top level only.
                None if known.contains(key) => {}
                None => return Err(self.unknown(&full, known.into_iter())),
                Some(inner) => {
                    let verbs = command.get_subcommands().map(|verb| verb.get_name().to_owned());
                    let sections = [definition::COLUMNS, definition::TRANSFORM].map(str::to_owned);
                    let names = || verbs.chain(sections.into_iter().filter(|_| prefix.is_empty()));
                    let verb = command.get_subcommands().find(|verb| verb.get_name() == key);
                    let verb = verb.ok_or_else(|| self.unknown(&full, names()))?;
                    self.check_inner(&full, inner, verb)?;
                }
            }
        }
        Ok(())
    }

    /// A section in a section; apart, so that the iterators' types come to an end.
    fn check_inner(&self, full: &str, section: &toml::Table, command: &clap::Command) -> Result<(), BadSetting> {
        let entries: Vec<(&String, &Value)> = section.iter().collect();
        self.check_section(&format!("{full}."), entries.into_iter(), command)
    }

    fn unknown(&self, key: &str, known: impl Iterator<Item = String>) -> BadSetting {
        let last = key.rsplit('.').next().unwrap_or(key);
        let near = known.map(|known| (distance(last, &known), known)).min();
        let hint = match near {
            Some((distance, known)) if distance <= 3 => format!("; did you mean `{known}`?"),
            _ => String::new(),
        };
        BadSetting::UnknownKey { path: self.path.clone(), key: key.to_owned(), hint }
    }
}

/// Finds `--config FILE` before anything is parsed.
fn named_file(arguments: &[OsString]) -> Option<PathBuf> {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        if text == "--config" {
            return arguments.next().map(PathBuf::from);
        }
        if let Some(path) = text.strip_prefix("--config=") {
            return Some(path.into());
        }
    }
    #[expect(clippy::disallowed_methods, reason = "this is where the configuration comes from")]
    let named = std::env::var_os("HEADWATER_CONFIG");
    named.map(PathBuf::from)
}

/// Returns the keys of the settings of a command and of all verbs in it.
fn settings_within(command: &clap::Command) -> Vec<String> {
    let own = command.get_arguments().filter(|argument| is_setting(argument)).map(key_of);
    own.chain(command.get_subcommands().flat_map(settings_within)).collect()
}

fn is_setting(argument: &Arg) -> bool {
    !argument.is_positional() && !FLAGS_ONLY.contains(&argument.get_id().as_str())
}

fn key_of(argument: &Arg) -> String {
    argument.get_long().unwrap_or_default().replace('-', "_")
}

fn variable_of(argument: &Arg) -> String {
    format!("HEADWATER_{}", key_of(argument).to_uppercase())
}

/// Gives every setting its environment variable, and the file's value as its default.
fn with_sources(file: &ConfigFile) -> Result<clap::Command, BadSetting> {
    let mut bad = Ok(());
    let command = sourced(Cli::command(), &[], file, &mut bad);
    bad.map(|()| command)
}

/// Does so for a command and the verbs in it; `verbs` are the words that lead to it.
fn sourced(
    command: clap::Command,
    verbs: &[String],
    file: &ConfigFile,
    bad: &mut Result<(), BadSetting>,
) -> clap::Command {
    let names: Vec<_> = command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
    let mut command = command.mut_args(|argument| with_source(argument, verbs, file, bad));
    for name in names {
        let mut inner = verbs.to_vec();
        inner.push(name.clone());
        command = command.mut_subcommand(&name, |verb| sourced(verb, &inner, file, bad));
    }
    command
}

fn with_source(argument: Arg, verbs: &[String], file: &ConfigFile, bad: &mut Result<(), BadSetting>) -> Arg {
    if !is_setting(&argument) {
        return argument;
    }
    let key = key_of(&argument);
    let variable = variable_of(&argument);
    let argument = argument.env(variable).hide_env(true);
    let Some(value) = file.get(verbs, &key) else {
        return argument;
    };
    match as_texts(value) {
        Some(texts) if argument.get_action().takes_values() => argument.default_values(texts).hide_default_value(true),
        Some(texts) => argument.default_values(texts),
        None => {
            *bad = Err(BadSetting::BadValue { path: file.path.clone(), key });
            argument
        }
    }
}

/// Lets every verb do without its files, its statement or whatever else it works on.
fn without_required_operands(command: clap::Command) -> clap::Command {
    let relaxed = |argument: Arg| if argument.is_positional() { argument.required(false) } else { argument };
    command.mut_subcommands(|verb| without_required_operands(verb.mut_args(relaxed)))
}

fn as_texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Integer(number) => Some(vec![number.to_string()]),
        Value::Float(number) => Some(vec![number.to_string()]),
        Value::Boolean(yes) => Some(vec![yes.to_string()]),
        Value::Datetime(time) => Some(vec![time.to_string()]),
        Value::Array(values) => {
            let texts: Option<Vec<_>> = values.iter().map(as_texts).collect();
            texts.map(|texts| texts.concat())
        }
        Value::Table(_) => None,
    }
}

/// Returns the keys of the settings that the user has made, wherever.
fn given(matches: &ArgMatches, file: &ConfigFile) -> BTreeSet<String> {
    let command = Cli::command();
    let Some((verbs, of_verb, chosen)) = innermost(&command, matches) else {
        return BTreeSet::new();
    };
    let is_given = |argument: &&Arg| {
        let source = chosen.value_source(argument.get_id().as_str());
        let is_said = matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable));
        is_said || file.get(&verbs, &key_of(argument)).is_some()
    };
    of_verb.get_arguments().filter(|argument| is_setting(argument)).filter(is_given).map(key_of).collect()
}

/// Returns the verb that was asked for, of a verb that has verbs the inner one, with the names on the way there.
fn innermost<'a>(
    command: &'a clap::Command,
    matches: &'a ArgMatches,
) -> Option<(Vec<String>, &'a clap::Command, &'a ArgMatches)> {
    let (mut of_verb, mut chosen, mut verbs) = (command, matches, Vec::new());
    while let Some((verb, inner)) = chosen.subcommand() {
        (of_verb, chosen) = (of_verb.find_subcommand(verb)?, inner);
        verbs.push(verb.to_owned());
    }
    (!verbs.is_empty()).then_some((verbs, of_verb, chosen))
}

/// Lists the effective settings as a `headwater.toml`, each with its origin.
fn listing(matches: &ArgMatches, file: &ConfigFile, definition: &Definition) -> String {
    let mut text = String::new();
    let command = Cli::command();
    let Some((verbs, of_verb, chosen)) = innermost(&command, matches) else {
        return text;
    };
    let mut put = |line: String| writeln!(text, "{line}").expect("writing to a string does not fail");
    put(format!("[{}]", verbs.join(".")));
    for argument in of_verb.get_arguments().chain(command.get_arguments()).filter(|argument| is_setting(argument)) {
        let key = key_of(argument);
        let id = argument.get_id().as_str();
        let origin = match chosen.value_source(id) {
            Some(ValueSource::CommandLine) => "flag".to_owned(),
            Some(ValueSource::EnvVariable) => format!("environment {}", variable_of(argument)),
            Some(_) if file.get(&verbs, &key).is_some() => format!("file {}", file.path.display()),
            Some(_) => "default".to_owned(),
            None => {
                put(format!("# {key} is not set"));
                continue;
            }
        };
        let shown = if matches!(argument.get_action(), ArgAction::SetTrue) {
            chosen.get_flag(id).to_string()
        } else {
            let raw = chosen.get_raw(id).into_iter().flatten();
            let values: Vec<_> = raw.map(|value| format!("{:?}", redacted(&value.to_string_lossy()))).collect();
            if values.len() == 1 { values.concat() } else { format!("[{}]", values.join(", ")) }
        };
        put(format!("{key} = {shown}  # {origin}"));
    }
    if ["consume", "replay.plan", "replay.run"].contains(&verbs.join(".").as_str()) {
        text.push_str(&definition.listing(&file.path.display().to_string()));
    }
    text.truncate(text.trim_end().len());
    text
}

/// Hides what stands before an `@` in a URL.
fn redacted(value: &str) -> String {
    match value.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.split_once('@')?))) {
        Some((scheme, (_, rest))) => format!("{scheme}://***@{rest}"),
        None => value.to_owned(),
    }
}

/// Returns how many letters differ between two words (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (at, candidate) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *candidate);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(row[at] + 1).min(row[at + 1] + 1);
        }
    }
    row[other.len()]
}
