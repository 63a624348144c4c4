//! Databases for the tests, by testdb. Copy this file, and delete the half of it that you don't use.
//!
//! `fresh`    runs a test with a database of its own
//! `rewound`  runs it with one of those that stay, of which there are as many as tests run at a time: it is what the template
//!            is again, while connections to it stay open
#![allow(dead_code)] // No test file uses all of it.

use sqlx::{migrate::Migrator, postgres::PgConnectOptions, postgres::PgPoolOptions, ConnectOptions, Connection, PgConnection, PgPool};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{LazyLock, Mutex as Lock};
use std::{env, future::Future, path::Path, thread};
use tokio::{runtime::Runtime, sync::Mutex, sync::OnceCell};

// Where testdb is. What a test gets is another database on this server.
static SERVER: LazyLock<PgConnectOptions> = LazyLock::new(|| {
    let url = env::var("ADMIN_URL").unwrap_or("postgresql://postgres:postgres@localhost:5435/postgres".into());
    url.parse().unwrap()
});
// One for all tests of this process: a connection ends with the runtime that it was made in.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
// The one connection that the clones go with: when this process ends, however it ends. And the template.
static ADMIN: OnceCell<(Mutex<PgConnection>, String)> = OnceCell::const_new();
static STAYING: Lock<Vec<PgPool>> = Lock::new(Vec::new());

/// Connects, and makes the template if it is not there. Of the processes that start together one makes it, and the others wait
/// here. It gets its name last, so that one that was interrupted is never taken for whole.
async fn connect() -> Result<(Mutex<PgConnection>, String), sqlx::Error> {
    let migrator = Migrator::new(Path::new("migrations")).await?;
    // It is named after what it is made from: after a change of a migration there is another one.
    let mut hasher = DefaultHasher::new();
    migrator.iter().for_each(|migration| migration.checksum.hash(&mut hasher));
    let template = format!("shop_{:016x}", hasher.finish());
    let mut admin = SERVER.connect().await?;
    sqlx::query("SELECT pg_advisory_lock(hashtext('shop template'))").execute(&mut admin).await?;
    let there = sqlx::query("SELECT FROM pg_database WHERE datname = $1").bind(&template).fetch_optional(&mut admin).await?;
    if there.is_none() {
        sqlx::query("DROP DATABASE IF EXISTS shop_building WITH (FORCE)").execute(&mut admin).await?;
        sqlx::query("CREATE DATABASE shop_building").execute(&mut admin).await?;
        let mut building = SERVER.clone().database("shop_building").connect().await?;
        migrator.run(&mut building).await?;
        sqlx::query("VACUUM (FREEZE, ANALYZE)").execute(&mut building).await?;
        building.close().await?;
        sqlx::query(&format!("ALTER DATABASE shop_building RENAME TO {template}")).execute(&mut admin).await?;
    }
    sqlx::query("SELECT pg_advisory_unlock(hashtext('shop template'))").execute(&mut admin).await?;
    Ok((Mutex::new(admin), template))
}

async fn clone() -> PgPool {
    let (admin, template) = ADMIN.get_or_try_init(connect).await.unwrap();
    let label = thread::current().name().unwrap_or("test").to_owned();
    let name: String = sqlx::query_scalar("SELECT testdb_clone($1, scope => 'session', label => left($2, 100))")
        .bind(template)
        .bind(label)
        .fetch_one(&mut *admin.lock().await)
        .await
        .unwrap();
    PgPoolOptions::new().connect_lazy_with(SERVER.clone().database(&name))
}

async fn call(sql: &str, name: &str) {
    sqlx::query(sql).bind(name).execute(&mut *ADMIN.get().unwrap().0.lock().await).await.unwrap();
}

/// The name of the database that the pool connects to.
pub fn name_of(db: &PgPool) -> String {
    db.connect_options().get_database().unwrap().to_owned()
}

/// Use: #[test] fn payment() { testdb::fresh(|db| async move { ... }) }
pub fn fresh<T: Future<Output = ()> + Send + 'static>(test: impl FnOnce(PgPool) -> T) {
    let db = RUNTIME.block_on(clone());
    let result = RUNTIME.block_on(RUNTIME.spawn(test(db.clone())));
    let name = name_of(&db);
    RUNTIME.block_on(db.close());
    if let Err(error) = result {
        RUNTIME.block_on(call("SELECT testdb_keep($1, '2 days')", &name));
        let (host, port, user) = (SERVER.get_host(), SERVER.get_port(), SERVER.get_username());
        println!("Kept for 2 days: psql \"host={host} port={port} user={user} dbname={name}\"");
        std::panic::resume_unwind(error.into_panic());
    }
    RUNTIME.block_on(call("SELECT testdb_drop($1)", &name));
}

/// Use: #[test] fn no_orders() { testdb::rewound(|db| async move { ... }) }
pub fn rewound<T: Future<Output = ()> + Send + 'static>(test: impl FnOnce(PgPool) -> T) {
    let staying = STAYING.lock().unwrap().pop();
    let db = staying.unwrap_or_else(|| RUNTIME.block_on(clone()));
    RUNTIME.block_on(call("SELECT testdb_rewind($1)", &name_of(&db)));
    let result = RUNTIME.block_on(RUNTIME.spawn(test(db.clone())));
    STAYING.lock().unwrap().push(db);
    result.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
}

/// A connection by tokio-postgres to the same database.
pub async fn tokio_postgres_client(db: &PgPool) -> tokio_postgres::Client {
    let url = env::var("ADMIN_URL").unwrap_or("postgresql://postgres:postgres@localhost:5435/postgres".into());
    let mut config: tokio_postgres::Config = url.parse().unwrap();
    let (client, connection) = config.dbname(name_of(db)).connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
