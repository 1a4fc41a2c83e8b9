//! From the parsed command line to the module that carries it out.

use std::future::Future;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use curve_telemetry::{console, say, say_error};

use crate::cli::{Cli, Command, NamesArg, PlaygroundCommand};
use crate::failure::{CODES, Code, Failure};
use crate::{bs, cluster, fs, iscsi, playground, serve};

/// Carries out what the process's arguments ask for; the exit status says how it went.
pub fn run_command_line() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.wants_json();
    let written = || {
        console::finish().map_err(|error| {
            Failure::new(Code::Environment, "cannot write to standard output").because(error)
        })
    };
    match run(cli).and_then(|()| written()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if json {
                say_error!("{}", failure.to_json());
            } else {
                say_error!("curve: {failure}");
            }
            ExitCode::from(failure.code.exit())
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let config = cli.config.as_deref();
    match cli.command {
        Command::Serve(args) => serve::run(config, &args),
        Command::Playground(args) => on_one_thread(run_playground(args.command)),
        Command::Bs(args) => on_one_thread(bs::run(config, args.command)),
        Command::Fs(args) => on_one_thread(fs::run(config, args.command)),
        Command::Iscsi(args) => on_one_thread(iscsi::run(config, args.command)),
        Command::Cluster(args) => on_one_thread(cluster::run(config, args.command)),
        Command::Explain { code } => explain(code.as_deref()),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "curve", &mut script);
            console::text(&script);
            Ok(())
        }
    }
}

async fn run_playground(command: PlaygroundCommand) -> Result<(), Failure> {
    match command {
        PlaygroundCommand::Start(args) => playground::start(&args).await,
        PlaygroundCommand::Status { dir, json } => playground::status(&dir.dir, json),
        PlaygroundCommand::Stop { dir, members, timeout } => {
            playground::stop(&dir.dir, &members.names, timeout.0).await
        }
        PlaygroundCommand::Kill { dir, members: NamesArg { names, all } } => {
            playground::kill(&dir.dir, &names, all).await
        }
        PlaygroundCommand::Restart { dir, members: NamesArg { names, all }, no_wait, rebuild, timeout } => {
            let how = playground::Restart { health_within: (!no_wait).then_some(timeout.0), rebuild };
            playground::restart(&dir.dir, &names, all, how).await
        }
        PlaygroundCommand::Pause { dir, members: NamesArg { names, all } } => {
            playground::pause(&dir.dir, &names, all)
        }
        PlaygroundCommand::Resume { dir, members: NamesArg { names, all } } => {
            playground::resume(&dir.dir, &names, all)
        }
        PlaygroundCommand::Nbd(args) => playground::serve_nbd(&args).await,
        PlaygroundCommand::Wait { dir, timeout } => playground::wait(&dir.dir, timeout.0).await,
        PlaygroundCommand::Wipe { dir, destroy } => playground::wipe(&dir.dir, destroy).await,
    }
}

fn on_one_thread(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        Failure::new(Code::Environment, "cannot start the asynchronous runtime").because(error)
    })?;
    runtime.block_on(command)
}

fn explain(code: Option<&str>) -> Result<(), Failure> {
    if let Some((code, meaning)) = code.and_then(|code| Some((code, fs::finding_meaning(code)?))) {
        say!("{} (finding): {meaning}", code.to_ascii_uppercase());
        return Ok(());
    }
    let wanted: Vec<Code> = match code {
        None => CODES.to_vec(),
        Some(name) => {
            let found = CODES.into_iter().find(|code| code.name().eq_ignore_ascii_case(name));
            vec![found.ok_or_else(|| {
                Failure::new(Code::NotFound, format!("there is no error code {name}")).try_this(
                    "`curve explain` lists all of them; health codes are explained by `curve cluster status`",
                )
            })?]
        }
    };
    for code in wanted {
        say!("{} (exit {}): {}", code.name(), code.exit(), code.meaning());
    }
    if code.is_none() {
        say!("\nFindings of `curve fs doctor`:");
        fs::FINDINGS.iter().for_each(|(code, meaning)| say!("{code}: {meaning}"));
    }
    Ok(())
}
