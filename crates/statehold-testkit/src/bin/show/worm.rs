//! Every verb over a bucket that refuses each overwrite and each delete, as one under object lock does.
//! What the program's own help lists has to be tried here, so no verb is forgotten.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::Args;
use statehold_testkit::loopback::{Front, Manners};
use statehold_testkit::process::{Installation, Ran, RealMachine, RunningGateway};
use statehold_testkit::servers::{self, Server};

use crate::program::ProgramArgs;

/// WORM
#[derive(Debug, Args)]
pub(crate) struct WormArgs {
    /// Pushes that the history is made of
    #[arg(long, default_value_t = 200)]
    pushes: u32,
    #[command(flatten)]
    program: ProgramArgs,
}

/// What is for removing: it may fail here, and is tried elsewhere.
const REMOVES: [&str; 1] = ["purge"];
/// How long a watch may take to bring something.
const WATCH_PATIENCE: Duration = Duration::from_secs(60);
/// What the probe may try to take away: the objects it has written for itself.
const OF_THE_PROBE: &str = "/probe/";

pub(crate) fn run(args: &WormArgs) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let server = match servers::moto() {
        Ok(server) => server,
        Err(absent) => {
            ensure!(!servers::installs_everything(), "the S3 server {absent}");
            println!("SKIP: the S3 server {absent}");
            return Ok(());
        }
    };
    let made = runtime.block_on(server.make_bucket("worm"));
    made.map_err(|reason| anyhow!("no bucket: {reason}"))?;
    let manners = Manners {
        keeps_everything: true,
        ..Manners::default()
    };
    let front = runtime.block_on(Front::before(server.endpoint(), manners))?;
    let installation = Installation::of(&args.program.binary()?)?;
    let mut place = Place {
        variables: variables(&server, &front),
        store: format!("{}/team", server.location("worm")),
        copy: format!("{}/copy", server.location("worm")),
        installation,
        tried: BTreeSet::new(),
    };
    place.tour(args.pushes)?;
    place.check_all_were_tried()?;
    let refused = front.take_refused();
    let foreign = refused.iter().find(|line| !line.contains(OF_THE_PROBE));
    if let Some(line) = foreign {
        bail!("this would have changed what was written: {line}");
    }
    let asked = front.take_lines().len();
    println!(
        "{} verbs and {} pushes over a bucket that refuses overwrites and deletes: all did what they are for; \
         of {asked} requests {} would have changed something, all of them the probe's own objects",
        place.tried.len(),
        args.pushes,
        refused.len()
    );
    Ok(())
}

/// How the program gets there, by way of the front.
fn variables(server: &Server, front: &Front) -> Vec<(&'static str, String)> {
    let endpoint = front.endpoint();
    let names = [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ENDPOINT_URL",
    ];
    let value = |name| Some((name, server.variable(&endpoint, name)?));
    names.into_iter().filter_map(value).collect()
}

struct Place {
    installation: Installation,
    variables: Vec<(&'static str, String)>,
    store: String,
    copy: String,
    /// Verbs that did what they are for.
    tried: BTreeSet<String>,
}

impl Place {
    /// A verb that has to succeed.
    fn verb(&mut self, machine: &RealMachine, words: &[&str]) -> Result<Ran> {
        self.verb_with(machine, words, "")
    }

    fn verb_with(&mut self, machine: &RealMachine, words: &[&str], input: &str) -> Result<Ran> {
        let mut command = machine.command(words);
        command.envs(self.variables.iter().map(|(name, value)| (*name, value)));
        let ran = machine.start(command, input)?.finish()?;
        let ran = ran
            .expect(0)
            .with_context(|| format!("statehold {}", words.join(" ")))?;
        let verb = words.first().context("a command has a verb")?;
        self.tried.insert((*verb).to_owned());
        Ok(ran)
    }

    fn serve(&mut self, store: &str) -> Result<RunningGateway> {
        let served = self
            .installation
            .serve_on(store.as_ref(), "127.0.0.1:0", &self.variables)?;
        self.tried.insert("serve".into());
        Ok(served)
    }

    /// A machine that is linked by the tried verbs.
    fn machine(&mut self, name: &str, gateway: &RunningGateway) -> Result<RealMachine> {
        let machine = self.installation.machine(name)?;
        self.verb(&machine, &["init", "--preset", "plain"])?;
        let invite = self.installation.invite(gateway)?;
        self.verb_with(&machine, &["link", &gateway.url], &invite)?;
        self.tried.insert("admin".into());
        Ok(machine)
    }

    fn tour(&mut self, pushes: u32) -> Result<()> {
        let store = self.store.clone();
        let gateway = self.serve(&store)?;
        let (anna, bert) = (
            self.machine("anna", &gateway)?,
            self.machine("bert", &gateway)?,
        );
        self.work(&anna, &bert, pushes)?;
        self.look_back(&anna)?;
        self.go_back(&anna, &bert)?;
        self.operate(&anna, &gateway)?;
        self.help_oneself(&bert)
    }

    /// The daily work: many pushes, some with packs.
    fn work(&mut self, anna: &RealMachine, bert: &RealMachine, pushes: u32) -> Result<()> {
        for number in 0..pushes {
            anna.write("notes/diary.md", format!("entry {number}\n"))?;
            anna.write(&format!("notes/{}.md", number % 20), format!("{number}"))?;
            if number % 20 == 7 {
                let noise = noise(number, 400_000);
                anna.write(&format!("large/{number}.bin"), noise)?;
            }
            self.verb(anna, &["push"])?;
        }
        self.verb(bert, &["pull"])?;
        bert.write("notes/reply.md", "seen\n")?;
        self.verb(bert, &["sync"])?;
        self.verb(anna, &["sync"])?;
        ensure!(anna.read("notes/reply.md")? == b"seen\n");
        self.verb(anna, &["status"])?;
        self.watch(anna, bert)
    }

    /// One machine is watched while the other one pushes.
    fn watch(&mut self, anna: &RealMachine, bert: &RealMachine) -> Result<()> {
        let watch = bert.start(bert.command(&["watch"]), "")?;
        anna.write("notes/news.md", "new\n")?;
        self.verb(anna, &["push"])?;
        let began = Instant::now();
        while bert.read("notes/news.md").is_err() {
            ensure!(began.elapsed() < WATCH_PATIENCE, "the watch brings nothing");
            std::thread::sleep(Duration::from_millis(5));
        }
        watch.stop()?.expect(0)?;
        self.tried.insert("watch".into());
        Ok(())
    }

    fn look_back(&mut self, anna: &RealMachine) -> Result<()> {
        let found = self.verb(anna, &["cat", "notes/diary.md", "--at", "1"])?;
        ensure!(found.out == "entry 0\n", "the first entry is {}", found.out);
        for words in [
            &["log"][..],
            &["versions", "notes/diary.md"],
            &["diff", "--from", "1"],
            &["snapshot", "good"],
            &["snapshot", "list"],
            &["restore", "notes", "1"],
            &["export", "../everything.tar.zst"],
        ] {
            self.verb(anna, words)?;
        }
        Ok(())
    }

    fn go_back(&mut self, anna: &RealMachine, bert: &RealMachine) -> Result<()> {
        anna.write("notes/diary.md", "a mistake\n")?;
        self.verb(anna, &["push"])?;
        self.verb(anna, &["undo"])?;
        anna.write("notes/diary.md", "another one\n")?;
        self.verb(anna, &["push"])?;
        let to = ["rollback", "--to", "1"];
        let confirmed = ["--apply", "--confirm-label=record-1"];
        self.verb(anna, &[&to[..], &confirmed].concat())?;
        self.verb(bert, &["pull"])?;
        ensure!(bert.read("notes/diary.md")? == b"entry 0\n");
        Ok(())
    }

    fn operate(&mut self, anna: &RealMachine, gateway: &RunningGateway) -> Result<()> {
        let operator = self.installation.operator()?;
        let (store, copy) = (self.store.clone(), self.copy.clone());
        let carl = self.machine("carl", gateway)?;
        let at = ["--gateway", &gateway.url];
        self.verb(&operator, &[&["admin"], &at[..], &["keys"]].concat())?;
        let listed = self.verb(anna, &["machines", "list", "--json"])?.json()?;
        ensure!(listed.to_string().contains("carl"), "no carl in {listed}");
        self.verb(&carl, &["unlink"])?;
        for words in [
            &["probe", &store][..],
            &["verify", "--store", &store, "--read-data"],
            &["replicate", "--store", &store, "--to", &copy],
            &["repair", "--store", &store, "--from", &copy],
        ] {
            self.verb(&operator, words)?;
        }
        self.keep_and_let_go(gateway)?;
        for words in [
            &["drill", "--store", &store, "--replica", &copy][..],
            &[
                "fence",
                "--store",
                &store,
                "--apply",
                "--confirm-label=epoch-0",
            ],
            &["replicate", "--store", &store, "--to", &copy],
            &["promote", &copy, "--apply", "--confirm-label=epoch-1"],
            &["bring-over", &store, "--to", &copy],
        ] {
            self.verb(&operator, words)?;
        }
        // The copy is served, and what it gives is what was copied.
        let other = self.serve(&copy)?;
        let dora = self.machine("dora", &other)?;
        self.verb(&dora, &["pull"])?;
        ensure!(dora.read("notes/diary.md")? == b"entry 0\n");
        Ok(())
    }

    /// What goes is only condemned here: nothing may be deleted before a week has passed.
    fn keep_and_let_go(&mut self, gateway: &RunningGateway) -> Result<()> {
        let owner = self.installation.machine("owner")?;
        self.verb(&owner, &["init", "--preset", "plain"])?;
        let key = self.installation.operator()?.home;
        let key = key.join("config/statehold/keys/operator");
        let key = key.to_string_lossy();
        let link = ["link", &gateway.url, "--key-file", &key, "--role", "own"];
        self.verb(&owner, &link)?;
        for words in [
            &["forget", "--keep-within", "90"][..],
            &["compact"],
            &["usage"],
        ] {
            self.verb(&owner, words)?;
        }
        Ok(())
    }

    fn help_oneself(&mut self, bert: &RealMachine) -> Result<()> {
        bert.write("small/one.md", "one\n")?;
        for words in [
            &["doctor"][..],
            &["rules", "show"],
            &["state", "set", "app", "{}"],
            &["completions", "bash"],
            &["man", "../pages"],
            &["demo", "small"],
        ] {
            self.verb(bert, words)?;
        }
        Ok(())
    }

    fn check_all_were_tried(&self) -> Result<()> {
        let help = self.installation.machine("anna")?.run(&["help"])?.out;
        let (_, commands) = help
            .split_once("Commands:\n")
            .context("help lists commands")?;
        let (commands, _) = commands.split_once("\n\n").context("and then options")?;
        let verbs = commands.lines().filter_map(|line| {
            let (verb, _) = line.strip_prefix("  ")?.split_once(' ')?;
            (!verb.is_empty() && verb != "help").then_some(verb)
        });
        let not_tried: Vec<&str> = verbs
            .filter(|verb| !self.tried.contains(*verb) && !REMOVES.contains(verb))
            .collect();
        ensure!(not_tried.is_empty(), "not tried: {}", not_tried.join(", "));
        Ok(())
    }
}

/// Bytes that don't compress.
fn noise(seed: u32, length: usize) -> Vec<u8> {
    statehold_testkit::environment::SeededEntropy::new(seed.into()).bytes(length)
}
