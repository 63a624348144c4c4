// 50 tests with pgtestdb: each has a database of its own, in which it finds what the template has.
package peer

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/peterldowns/pgtestdb"
)

type migrator struct{}

func (migrator) Hash() (string, error) {
	return "peer", nil
}

func (migrator) Migrate(ctx context.Context, db *sql.DB, _ pgtestdb.Config) error {
	schema, err := os.ReadFile(os.Getenv("PEER_SCHEMA"))
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, string(schema))
	return err
}

func TestPeer(t *testing.T) {
	for i := 1; i <= 50; i++ {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			db := pgtestdb.New(t, pgtestdb.Config{
				DriverName: "pgx",
				User:       "postgres",
				Password:   "password",
				Host:       "localhost",
				Port:       os.Getenv("PEER_PORT"),
				Options:    "sslmode=disable",
			}, migrator{})
			var id, tables int
			row := db.QueryRow(fmt.Sprintf("INSERT INTO tab_%d (name) VALUES ('of a test') RETURNING id", i))
			if err := row.Scan(&id); err != nil || id != 11 {
				t.Fatalf("row %d, %v", id, err)
			}
			row = db.QueryRow(`SELECT count(*) FROM pg_class WHERE relname LIKE 'tab\_%' AND relkind = 'r'`)
			if err := row.Scan(&tables); err != nil || tables != 100 {
				t.Fatalf("%d tables, %v", tables, err)
			}
		})
	}
}
