// Package report sums up.
package report

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Revenue is what was paid for all orders.
func Revenue(ctx context.Context, db *pgxpool.Pool) (total float64, err error) {
	err = db.QueryRow(ctx, "SELECT coalesce(sum(total), 0) FROM payment").Scan(&total)
	return total, err
}
