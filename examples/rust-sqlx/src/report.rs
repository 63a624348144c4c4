//! Sums up, by tokio-postgres.

use tokio_postgres::{Client, Error};

/// What was paid for all orders.
pub async fn revenue(db: &Client) -> Result<f64, Error> {
    Ok(db.query_one("SELECT coalesce(sum(total), 0)::float8 FROM payment", &[]).await?.get(0))
}

/// How many orders a customer has.
pub async fn order_count(db: &Client, customer: i64) -> Result<i64, Error> {
    Ok(db.query_one("SELECT count(*) FROM purchase WHERE customer_id = $1", &[&customer]).await?.get(0))
}
