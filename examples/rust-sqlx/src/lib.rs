//! The application: a shop. It commits for itself, as applications do.

use sqlx::{migrate::Migrator, PgPool};

pub mod report;

/// The schema, for the application's start, and for the tests.
pub static MIGRATOR: Migrator = sqlx::migrate!();

#[derive(Debug)]
pub enum Error {
    OutOfStock(i64),
    Database(sqlx::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Error::Database(error)
    }
}

/// Orders amounts of products for a customer, and returns the order's number.
pub async fn place_order(db: &PgPool, customer: i64, items: &[(i64, i32)]) -> Result<i64, Error> {
    let mut transaction = db.begin().await?;
    let order: i64 = sqlx::query_scalar("INSERT INTO purchase (customer_id) VALUES ($1) RETURNING id")
        .bind(customer)
        .fetch_one(&mut *transaction)
        .await?;
    for &(product, amount) in items {
        let taken = sqlx::query("UPDATE stock SET amount = amount - $1 WHERE product_id = $2 AND amount >= $1")
            .bind(amount)
            .bind(product)
            .execute(&mut *transaction)
            .await?;
        if taken.rows_affected() == 0 {
            return Err(Error::OutOfStock(product));
        }
        sqlx::query("INSERT INTO purchase_item VALUES ($1, $2, $3)")
            .bind(order)
            .bind(product)
            .bind(amount)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(order)
}

pub async fn in_stock(db: &PgPool, product: i64) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT sum(amount) FROM stock WHERE product_id = $1").bind(product).fetch_one(db).await
}

/// Pays for an order, and returns the total.
pub async fn pay(db: &PgPool, order: i64) -> Result<f64, sqlx::Error> {
    sqlx::query_scalar(
        "INSERT INTO payment (purchase_id, total)
         SELECT i.purchase_id, sum(p.price * i.amount)
         FROM purchase_item i JOIN product p ON p.id = i.product_id
         WHERE i.purchase_id = $1 GROUP BY 1 RETURNING total::float8",
    )
    .bind(order)
    .fetch_one(db)
    .await
}
