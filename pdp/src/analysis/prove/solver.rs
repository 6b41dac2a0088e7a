//! The solver: cvc5, a program of its own beside this one.
//!
//! It is found by `CVC5` or on `PATH`, and has to answer questions whose answers are known
//! before it is believed: another solver rejects the theories in use, and a gate that took
//! an error for a yes would look green. Each query has a time of its own; whatever is not a
//! plain answer is a failure, and a failure is never a proof.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process,
    time::{Duration, Instant},
};

use cedar_policy::{PolicySet, RequestEnv, Schema};
use cedar_policy_symcc::{
    CedarSymCompiler, CompiledPolicy, CompiledPolicySet, Env, err::Error, solver::LocalSolver,
};
use palisade_mesh::diagnostic::Diagnostic;
use tokio::{process::Command, time::timeout};

use super::super::codes;

/// Longest time for one query; the whole proof has its own limit.
const QUERY_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest time for the questions whose answers are known.
const SELF_TEST_TIME_MAX: Duration = Duration::from_secs(5);
/// Names the program.
const VARIABLE: &str = "CVC5";
/// What it is called on `PATH`.
const PROGRAM: &str = "cvc5";

/// A solver that gave the right answers.
#[derive(Debug, Clone)]
pub struct Solver {
    program: PathBuf,
    name: String,
}

/// Why a query has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure(pub(crate) String);

impl Solver {
    /// Finds and tests the solver. `None` where there is none: `CVC5` is not set and `PATH`
    /// has no `cvc5`.
    ///
    /// # Errors
    /// `PLS2305` when there is one that cannot be used.
    pub fn find() -> Result<Option<Self>, Diagnostic> {
        let named = env::var_os(VARIABLE).filter(|v| !v.is_empty());
        let Some(program) = named.map(PathBuf::from).or_else(on_path) else {
            return Ok(None);
        };
        Self::at(&program).map(Some)
    }

    /// Tests the solver at `program`.
    ///
    /// # Errors
    /// As [`Solver::find`].
    pub fn at(program: &Path) -> Result<Self, Diagnostic> {
        let unusable = |cause: String| {
            Diagnostic::error(
                codes::SOLVER,
                format!("solver `{}` cannot be used", program.display()),
            )
            .cause(cause)
            .help("install cvc5 (Debian: apt-get install cvc5), or name it in CVC5; without one nothing is proved")
        };
        let solver = Self {
            name: version(program).map_err(unusable)?,
            program: program.to_path_buf(),
        };
        on_runtime(solver.test()).map_err(|Failure(cause)| unusable(cause))?;
        Ok(solver)
    }

    /// Name and version, `cvc5 1.0.3`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Begins to ask; every query must have ended by `deadline`.
    pub(crate) fn session(&self, deadline: Instant) -> Session {
        Session {
            program: self.program.clone(),
            deadline,
            compiler: None,
            queries: 0,
        }
    }

    /// One claim that holds and one that does not, neither of which the compiler can fold.
    async fn test(&self) -> Result<(), Failure> {
        let wrong = |what: &str| Failure(format!("it fails its self-test: {what}"));
        let bug = || wrong("bug: the test itself is wrong");
        let (schema, _) = Schema::from_cedarschema_str(TEST_SCHEMA).map_err(|_| bug())?;
        let env = schema.request_envs().next().ok_or_else(bug)?;
        let set = |condition: &str| -> Result<Query, Failure> {
            let text = format!("permit (principal, action, resource) when {{ {condition} }};");
            let set: PolicySet = text.parse().map_err(|_| bug())?;
            Query::compile(&set, &env, &schema)
        };
        let narrow = set("principal in T::\"a\" && context.n > 7 && context.s like \"/a/*\"")?;
        let wide = set("context.s like \"/a*\" && principal in T::\"a\" && context.n >= 8")?;
        let mut session = self.session(Instant::now() + SELF_TEST_TIME_MAX);
        match session.implies(&narrow, &wide).await? {
            None => {}
            Some(_) => return Err(wrong("it denies what holds")),
        }
        match session.implies(&wide, &narrow).await? {
            Some(_) => Ok(()),
            None => Err(wrong("it proves what does not hold")),
        }
    }
}

const TEST_SCHEMA: &str = "entity T; entity U in [T]; \
    action a appliesTo { principal: U, resource: T, context: { n: Long, s: String } };";

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A set of policies for one kind of request, ready to be asked about.
#[derive(Debug)]
pub(crate) struct Query(CompiledPolicySet);

impl Query {
    pub(crate) fn compile(
        set: &PolicySet,
        env: &RequestEnv,
        schema: &Schema,
    ) -> Result<Self, Failure> {
        CompiledPolicySet::compile(set, env, schema)
            .map(Self)
            .map_err(|e| Failure(words(&e)))
    }
}

/// One solver process, started anew after each failure: one that died once, or gave half an
/// answer, is of no use any more.
pub(crate) struct Session {
    program: PathBuf,
    deadline: Instant,
    compiler: Option<CedarSymCompiler<LocalSolver>>,
    /// How many queries it was asked.
    pub(crate) queries: usize,
}

impl Session {
    /// `None` when every request that `left` allows is one that `right` allows; else one that
    /// is not.
    pub(crate) async fn implies(
        &mut self,
        left: &Query,
        right: &Query,
    ) -> Result<Option<Env>, Failure> {
        self.ask(async |compiler| {
            compiler
                .check_implies_with_counterexample_opt(&left.0, &right.0)
                .await
        })
        .await
    }

    /// Whether a policy never fails to evaluate.
    pub(crate) async fn never_errs(&mut self, policy: &CompiledPolicy) -> Result<bool, Failure> {
        self.ask(async |compiler| compiler.check_never_errors_opt(policy).await)
            .await
    }

    async fn ask<T>(
        &mut self,
        query: impl AsyncFnOnce(&mut CedarSymCompiler<LocalSolver>) -> Result<T, Error>,
    ) -> Result<T, Failure> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure("the time for the proof is over".to_owned()));
        }
        let mut compiler = match self.compiler.take() {
            Some(compiler) => compiler,
            None => self.start()?,
        };
        self.queries += 1;
        let limit = left.min(QUERY_TIME_MAX);
        match timeout(limit, query(&mut compiler)).await {
            Ok(Ok(answer)) => {
                self.compiler = Some(compiler);
                Ok(answer)
            }
            Ok(Err(error)) => Err(Failure(words(&error))),
            Err(_) => Err(Failure(format!(
                "the solver gave no answer within {} s",
                limit.as_secs_f32().ceil()
            ))),
        }
    }

    fn start(&self) -> Result<CedarSymCompiler<LocalSolver>, Failure> {
        let mut command = Command::new(&self.program);
        command.args(["--lang", "smt"]).kill_on_drop(true);
        let solver = LocalSolver::from_command(&mut command);
        let started = solver.map_err(Error::from).and_then(CedarSymCompiler::new);
        started.map_err(|e| Failure(words(&e)))
    }
}

/// Runs queries to their end on this thread.
pub(crate) fn on_runtime<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => Err(Failure(error.to_string())),
    }
}

fn words(error: &Error) -> String {
    match error {
        Error::SolverUnknown => "the solver does not know".to_owned(),
        error => {
            let mut words = error.to_string();
            let mut cause = std::error::Error::source(error);
            while let Some(inner) = cause {
                let text = inner.to_string();
                if !words.contains(&text) {
                    words = format!("{words}: {text}");
                }
                cause = inner.source();
            }
            words
        }
    }
}

fn on_path() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let mut found = env::split_paths(&path).map(|dir| dir.join(PROGRAM));
    found.find(|p| fs::metadata(p).is_ok_and(|m| m.is_file()))
}

/// `cvc5 1.0.3`, as the program says it.
fn version(program: &Path) -> Result<String, String> {
    let out = process::Command::new(program).arg("--version").output();
    let out = out.map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&out.stdout);
    let after = text.split_once("cvc5 version ").map(|(_, rest)| rest);
    let number = after.and_then(|rest| rest.split([' ', '\n', ';']).next());
    match number {
        Some(number) if out.status.success() => Ok(format!("{PROGRAM} {number}")),
        _ => Err("it does not say that it is cvc5".to_owned()),
    }
}
