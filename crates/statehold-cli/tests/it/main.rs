//! The real program, end to end: gateways and machines as processes, each with a home of its own.

#[cfg(test)]
mod agent_workspace;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod collected;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod drill;
#[cfg(test)]
mod export;
#[cfg(test)]
mod history;
#[cfg(test)]
mod killed;
#[cfg(test)]
mod letting_in;
#[cfg(test)]
mod losing_things;
#[cfg(test)]
mod lost_host;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod recovery_switched;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod replicate;
#[cfg(test)]
mod restore;
#[cfg(test)]
mod retention;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod sharing;
#[cfg(test)]
mod states;
#[cfg(test)]
mod switch;
#[cfg(test)]
mod vault;
#[cfg(test)]
mod verbs;
#[cfg(test)]
mod watch;

#[cfg(test)]
mod world {
    use std::path::Path;

    use serde_json::Value;
    use statehold_testkit::process::{Installation, Ran, RealMachine, RunningGateway};

    /// The program under test, with a scratch folder of its own.
    pub(crate) fn installation() -> Installation {
        Installation::of(Path::new(env!("CARGO_BIN_EXE_statehold"))).unwrap()
    }

    /// A gateway and two machines that share a repository through it.
    pub(crate) struct Two {
        pub(crate) installation: Installation,
        pub(crate) gateway: RunningGateway,
        pub(crate) a: RealMachine,
        pub(crate) b: RealMachine,
    }

    impl Two {
        pub(crate) fn new() -> Self {
            let installation = installation();
            let gateway = installation.serve("vault").unwrap();
            let a = installation.linked("anna", &gateway).unwrap();
            let b = installation.linked("bert", &gateway).unwrap();
            Self {
                installation,
                gateway,
                a,
                b,
            }
        }
    }

    /// Runs a command that has to end with this code.
    #[track_caller]
    pub(crate) fn run(machine: &RealMachine, arguments: &[&str], code: i32) -> Ran {
        let ran = machine.run(arguments).unwrap();
        assert_eq!(
            ran.code,
            Some(code),
            "{arguments:?}: {}{}",
            ran.out,
            ran.err
        );
        ran
    }

    /// Runs a command with `--json`, and reads what it prints.
    #[track_caller]
    pub(crate) fn json(machine: &RealMachine, arguments: &[&str], code: i32) -> Value {
        let arguments = [arguments, &["--json"]].concat();
        run(machine, &arguments, code).json().unwrap()
    }
}
