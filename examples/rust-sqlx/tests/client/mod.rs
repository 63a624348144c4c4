//! Connects by tokio-postgres.

use sqlx::PgPool;
use tokio_postgres::{Client, Config, NoTls};

/// A connection to the database that the pool connects to.
pub async fn connect(db: &PgPool) -> Client {
    let config: Config = std::env::var("ADMIN_URL").unwrap().parse().unwrap();
    let database = db.connect_options().get_database().unwrap().to_owned();
    let (client, connection) = config.clone().dbname(database).connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
