package report_test

import (
	"context"
	"fmt"
	"testing"

	"example.com/shop/internal/testdb"
	"example.com/shop/report"
	"example.com/shop/shop"
)

func TestRevenue(t *testing.T) {
	for product, price := range map[int]float64{1: 30, 2: 25.5, 3: 12} {
		for amount := 1; amount <= 5; amount++ {
			t.Run(fmt.Sprintf("%d of product %d", amount, product), func(t *testing.T) {
				ctx, db := context.Background(), testdb.Shared()
				if revenue, err := report.Revenue(ctx, db); err != nil || revenue != 0 {
					t.Fatalf("revenue at first: %v, %v", revenue, err)
				}
				order, err := shop.PlaceOrder(ctx, db, 1, shop.Item{Product: product, Amount: amount})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := shop.Pay(ctx, db, order); err != nil {
					t.Fatal(err)
				}
				if revenue, err := report.Revenue(ctx, db); err != nil || revenue != price*float64(amount) {
					t.Errorf("revenue: %v, %v", revenue, err)
				}
			})
		}
	}
}

func TestTableMayGo(t *testing.T) {
	if _, err := testdb.Shared().Exec(context.Background(), "DROP TABLE shipment"); err != nil {
		t.Error(err)
	}
}

func TestTableIsBack(t *testing.T) {
	if _, err := testdb.Shared().Exec(context.Background(), "TABLE shipment"); err != nil {
		t.Error(err)
	}
}
