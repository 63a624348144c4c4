//! Databases for the tests, by testdb. Copy this file, and delete the half of it that you don't use.
#![allow(dead_code)] // No test file uses all of it.

use shop::MIGRATOR;
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{ConnectOptions, FromRow, PgConnection, PgPool};
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::{env::var, future::Future, sync::LazyLock, sync::Mutex};
use tokio::runtime::Runtime;

// Where testdb is. What a test gets is another database on this server.
static SERVER: LazyLock<PgConnectOptions> = LazyLock::new(|| var("ADMIN_URL").expect("ADMIN_URL").parse().unwrap());
// One for all tests of this process: a connection ends with the runtime that it was made in.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
// The one connection that the clones go with: when this process ends, however it ends.
static ADMIN: LazyLock<Mutex<PgConnection>> = LazyLock::new(|| Mutex::new(RUNTIME.block_on(SERVER.connect()).unwrap()));

/// Calls a function of testdb.
fn call<T: for<'row> FromRow<'row, PgRow> + Send + Unpin>(query: &str, value: &str) -> T {
    RUNTIME.block_on(sqlx::query_as(query).bind(value).fetch_one(&mut *ADMIN.lock().unwrap())).unwrap()
}

// Of the processes that start together one makes the template, and the others wait here. After a change of a migration there is
// another one.
static TEMPLATE: LazyLock<String> = LazyLock::new(|| {
    let source: String = MIGRATOR.iter().map(|migration| &*migration.sql).collect();
    let (name, build): (String, bool) = call("SELECT * FROM testdb_template_begin('shop', md5($1))", &source);
    if build {
        let db = SERVER.clone().database(&name);
        RUNTIME.block_on(async { MIGRATOR.run(&mut db.connect().await?).await }).unwrap();
        call::<()>("SELECT testdb_template_finish($1)", &name);
    }
    name
});

/// A database, and its name.
fn clone() -> (PgPool, String) {
    let (name,): (String,) = call("SELECT testdb_clone($1, scope => 'session')", &TEMPLATE);
    (RUNTIME.block_on(PgPool::connect_with(SERVER.clone().database(&name))).unwrap(), name)
}

/// Runs a test with a database of its own. Use: #[test] fn payment() { testdb::fresh(|db| async move { ... }) }
pub fn fresh<T: Future<Output = ()>>(test: impl FnOnce(PgPool) -> T) {
    let (db, name) = clone();
    let result = catch_unwind(AssertUnwindSafe(|| RUNTIME.block_on(test(db))));
    call::<()>(if result.is_ok() { "SELECT testdb_drop($1)" } else { "SELECT testdb_keep($1, '2 days')" }, &name);
    if let Err(panic) = result {
        let (user, host, port) = (SERVER.get_username(), SERVER.get_host(), SERVER.get_port());
        println!("Kept for 2 days: psql \"postgresql://{user}@{host}:{port}/{name}\"");
        resume_unwind(panic);
    }
}

static STAYING: Mutex<Vec<(PgPool, String)>> = Mutex::new(Vec::new());

/// Runs it with one of those that stay, of which there are as many as tests run at a time: it has the template's content again, and
/// connections to it stay open. Use: #[test] fn no_orders() { testdb::rewound(|db| async move { ... }) }
pub fn rewound<T: Future<Output = ()>>(test: impl FnOnce(PgPool) -> T) {
    let (db, name) = STAYING.lock().unwrap().pop().unwrap_or_else(clone);
    call::<()>("SELECT testdb_rewind($1)", &name);
    RUNTIME.block_on(test(db.clone()));
    STAYING.lock().unwrap().push((db, name));
}
