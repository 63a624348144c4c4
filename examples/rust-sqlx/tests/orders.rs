//! A database for each test.

use shop::{in_stock, pay, place_order, report, Error};

mod client;
mod testdb;

macro_rules! takes_from_stock {
    ($($name:ident: $product:expr, $amount:expr, $price:expr;)*) => {$(
        #[test]
        fn $name() {
            testdb::fresh(|db| async move {
                // Number 1, each time: the sequences are the template's, too.
                assert_eq!(place_order(&db, 1, &[($product, $amount)]).await.unwrap(), 1);
                assert_eq!(in_stock(&db, $product).await.unwrap(), i64::from(5 - $amount));
                assert_eq!(pay(&db, 1).await.unwrap(), $price * f64::from($amount));
            })
        }
    )*};
}

takes_from_stock! {
    one_kettle: 1, 1, 30.0;
    two_kettles: 1, 2, 30.0;
    three_kettles: 1, 3, 30.0;
    four_kettles: 1, 4, 30.0;
    five_kettles: 1, 5, 30.0;
    one_teapot: 2, 1, 25.5;
    two_teapots: 2, 2, 25.5;
    three_teapots: 2, 3, 25.5;
    four_teapots: 2, 4, 25.5;
    five_teapots: 2, 5, 25.5;
    one_rake: 3, 1, 12.0;
    two_rakes: 3, 2, 12.0;
    three_rakes: 3, 3, 12.0;
    four_rakes: 3, 4, 12.0;
    five_rakes: 3, 5, 12.0;
}

#[test]
fn nothing_is_taken_if_something_is_missing() {
    testdb::fresh(|db| async move {
        let result = place_order(&db, 1, &[(1, 1), (2, 6)]).await;
        assert!(matches!(result, Err(Error::OutOfStock(2))), "{result:?}");
        assert_eq!(in_stock(&db, 1).await.unwrap(), 5);
    })
}

#[test]
fn tokio_postgres_sees_what_sqlx_has_committed() {
    testdb::fresh(|db| async move {
        let client = client::connect(&db).await;
        place_order(&db, 2, &[(3, 1)]).await.unwrap();
        assert_eq!(report::order_count(&client, 2).await.unwrap(), 1);
    })
}

#[test]
fn the_schema_may_change() {
    testdb::fresh(|db| async move {
        sqlx::query("ALTER TABLE product ADD COLUMN weight integer").execute(&db).await.unwrap();
        sqlx::query("SELECT weight FROM product").fetch_all(&db).await.unwrap();
    })
}

#[test]
fn the_schema_is_the_template_s() {
    testdb::fresh(|db| async move {
        assert!(sqlx::query("SELECT weight FROM product").fetch_all(&db).await.is_err());
    })
}
