//! 30 tests with sqlx::test: each has a database of its own, which sqlx makes and migrates.

#[cfg(test)]
mod tests {
    use sqlx::PgPool;

    async fn check(pool: PgPool) -> sqlx::Result<()> {
        let id: i64 = sqlx::query_scalar("INSERT INTO author (name) VALUES ('Clara') RETURNING id")
            .fetch_one(&pool)
            .await?;
        assert_eq!(id, 3);
        let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_class WHERE relname IN ('author', 'book')")
            .fetch_one(&pool)
            .await?;
        assert_eq!(tables, 2);
        Ok(())
    }

    macro_rules! tests {
        ($($name:ident)*) => {
            $(
                #[sqlx::test]
                async fn $name(pool: PgPool) -> sqlx::Result<()> {
                    check(pool).await
                }
            )*
        };
    }

    tests! {
        t01 t02 t03 t04 t05 t06 t07 t08 t09 t10 t11 t12 t13 t14 t15
        t16 t17 t18 t19 t20 t21 t22 t23 t24 t25 t26 t27 t28 t29 t30
    }
}
