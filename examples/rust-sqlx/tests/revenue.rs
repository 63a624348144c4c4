//! As many databases as tests run at a time, rewound before each.

use shop::{in_stock, pay, place_order, report::revenue};

mod client;
mod testdb;

macro_rules! revenue {
    ($($name:ident: $product:expr, $amount:expr, $expected:expr;)*) => {$(
        #[test]
        fn $name() {
            testdb::rewound(|db| async move {
                let client = client::connect(&db).await;
                assert_eq!(revenue(&client).await.unwrap(), 0.0);
                let order = place_order(&db, 1, &[($product, $amount)]).await.unwrap();
                pay(&db, order).await.unwrap();
                assert_eq!(revenue(&client).await.unwrap(), $expected);
            })
        }
    )*};
}

revenue! {
    from_one_kettle: 1, 1, 30.0;
    from_two_kettles: 1, 2, 60.0;
    from_three_kettles: 1, 3, 90.0;
    from_one_teapot: 2, 1, 25.5;
    from_two_teapots: 2, 2, 51.0;
    from_three_teapots: 2, 3, 76.5;
    from_one_rake: 3, 1, 12.0;
    from_two_rakes: 3, 2, 24.0;
    from_three_rakes: 3, 3, 36.0;
}

#[test]
fn stock_is_full_at_first() {
    testdb::rewound(|db| async move { assert_eq!(in_stock(&db, 1).await.unwrap(), 5) })
}

#[test]
fn a_table_may_go() {
    testdb::rewound(|db| async move {
        sqlx::query("DROP TABLE shipment").execute(&db).await.unwrap();
    })
}

#[test]
fn the_table_is_back() {
    testdb::rewound(|db| async move {
        assert!(sqlx::query("SELECT FROM shipment").fetch_all(&db).await.unwrap().is_empty());
    })
}
