//! Databases for the tests, by testdb. Copy this file, and delete the half of it that you don't use.
#![allow(dead_code)] // No test file uses all of it.

use sqlx::{migrate::Migrator, postgres::PgConnectOptions, ConnectOptions, Connection, PgConnection, PgPool};
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::{env, future::Future, path::Path, sync::LazyLock, sync::Mutex};
use tokio::runtime::Runtime;

// Where testdb is. What a test gets is another database on this server.
pub static SERVER: LazyLock<PgConnectOptions> = LazyLock::new(|| env::var("ADMIN_URL").expect("ADMIN_URL").parse().unwrap());
// One for all tests of this process: a connection ends with the runtime that it was made in.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
// The one connection that the clones go with: when this process ends, however it ends.
static ADMIN: LazyLock<Mutex<PgConnection>> = LazyLock::new(|| Mutex::new(RUNTIME.block_on(SERVER.connect()).unwrap()));

/// Calls a function of testdb.
fn call(function: &str, value: &str) -> String {
    let sql = format!("SELECT {function}::text");
    RUNTIME.block_on(sqlx::query_scalar(&sql).bind(value).fetch_one(&mut *ADMIN.lock().unwrap())).unwrap()
}

fn open(database: &str) -> PgPool {
    RUNTIME.block_on(PgPool::connect_with(SERVER.clone().database(database))).unwrap()
}

// Of the processes that start together one makes the template, and the others wait here. After a change of a migration there is
// another one.
static TEMPLATE: LazyLock<String> = LazyLock::new(|| {
    let migrator = RUNTIME.block_on(Migrator::new(Path::new("migrations"))).unwrap();
    let source: String = migrator.iter().map(|migration| &*migration.sql).collect();
    let answer = call("(SELECT concat_ws(' ', build, database) FROM testdb_template_begin('shop', md5($1)))", &source);
    let (build, name) = answer.split_once(' ').unwrap();
    if build == "t" {
        let mut db = RUNTIME.block_on(SERVER.clone().database(name).connect()).unwrap();
        RUNTIME.block_on(migrator.run(&mut db)).unwrap();
        RUNTIME.block_on(db.close()).unwrap();
        call("testdb_template_finish($1)", name);
    }
    name.to_owned()
});

fn clone() -> PgPool {
    open(&call("testdb_clone($1, scope => 'session')", &TEMPLATE))
}

/// The name of the database that the pool connects to.
pub fn name_of(db: &PgPool) -> String {
    db.connect_options().get_database().unwrap().to_owned()
}

/// Runs a test with a database of its own. Use: #[test] fn payment() { testdb::fresh(|db| async move { ... }) }
pub fn fresh<T: Future<Output = ()>>(test: impl FnOnce(PgPool) -> T) {
    let db = clone();
    let result = catch_unwind(AssertUnwindSafe(|| RUNTIME.block_on(test(db.clone()))));
    RUNTIME.block_on(db.close());
    call(if result.is_ok() { "testdb_drop($1)" } else { "testdb_keep($1, '2 days')" }, &name_of(&db));
    if let Err(panic) = result {
        let (user, host, port) = (SERVER.get_username(), SERVER.get_host(), SERVER.get_port());
        println!("Kept for 2 days: psql \"postgresql://{user}@{host}:{port}/{}\"", name_of(&db));
        resume_unwind(panic);
    }
}

static STAYING: Mutex<Vec<PgPool>> = Mutex::new(Vec::new());

/// Runs it with one of those that stay, of which there are as many as tests run at a time: it has the template's content again, and
/// connections to it stay open. Use: #[test] fn no_orders() { testdb::rewound(|db| async move { ... }) }
pub fn rewound<T: Future<Output = ()>>(test: impl FnOnce(PgPool) -> T) {
    let db = STAYING.lock().unwrap().pop().unwrap_or_else(clone);
    call("testdb_rewind($1)", &name_of(&db));
    RUNTIME.block_on(test(db.clone()));
    STAYING.lock().unwrap().push(db);
}
