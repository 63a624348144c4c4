// Package shop takes orders.
package shop

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Item is an amount of a product.
type Item struct{ Product, Amount int }

// PlaceOrder orders items for a customer, and returns the order's number.
func PlaceOrder(ctx context.Context, db *pgxpool.Pool, customer int, items ...Item) (order int, err error) {
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		row := tx.QueryRow(ctx, "INSERT INTO purchase (customer_id) VALUES ($1) RETURNING id", customer)
		if err := row.Scan(&order); err != nil {
			return err
		}
		for _, item := range items {
			taken, err := tx.Exec(ctx, "UPDATE stock SET amount = amount - $1 WHERE product_id = $2 AND amount >= $1",
				item.Amount, item.Product)
			if err != nil {
				return err
			}
			if taken.RowsAffected() == 0 {
				return fmt.Errorf("product %d is out of stock", item.Product)
			}
			if _, err := tx.Exec(ctx, "INSERT INTO purchase_item VALUES ($1, $2, $3)",
				order, item.Product, item.Amount); err != nil {
				return err
			}
		}
		return nil
	})
	return order, err
}

// InStock tells how much there is of a product.
func InStock(ctx context.Context, db *pgxpool.Pool, product int) (amount int, err error) {
	err = db.QueryRow(ctx, "SELECT sum(amount) FROM stock WHERE product_id = $1", product).Scan(&amount)
	return amount, err
}

// Pay pays for an order, and returns the total.
func Pay(ctx context.Context, db *pgxpool.Pool, order int) (total float64, err error) {
	err = db.QueryRow(ctx, `
		INSERT INTO payment (purchase_id, total)
		SELECT i.purchase_id, sum(p.price * i.amount)
		FROM purchase_item i JOIN product p ON p.id = i.product_id
		WHERE i.purchase_id = $1 GROUP BY 1 RETURNING total`, order).Scan(&total)
	return total, err
}
