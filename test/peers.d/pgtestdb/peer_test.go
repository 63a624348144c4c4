// 50 tests with pgtestdb: each has a database of its own, in which it finds what the template has.
package peer

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/peterldowns/pgtestdb"
)

type migrator struct{}

func (migrator) Hash() (string, error) {
	return "peer", nil
}

func (migrator) Migrate(ctx context.Context, _ *sql.DB, config pgtestdb.Config) error {
	psql := exec.CommandContext(ctx, os.Getenv("BINDIR")+"/psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", config.URL(),
		"-f", os.Getenv("PEER_DUMP"))
	psql.Stderr = os.Stderr
	return psql.Run()
}

// expect lets the test fail if a query returns anything else.
func expect(t *testing.T, db *sql.DB, query, expected string) {
	var found string
	if err := db.QueryRow(query).Scan(&found); err != nil || found != expected {
		t.Fatalf("%s: %q, not %q, %v", query, found, expected, err)
	}
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
			if _, err := db.Exec("INSERT INTO ids (table_name, field_name, nextid) VALUES ('peers', 'test', $1)", i); err != nil {
				t.Fatal(err)
			}
			expect(t, db, "SELECT string_agg(ids::text, ' ') FROM ids", fmt.Sprintf("(peers,test,%d)", i))
			expect(t, db, "SELECT count(*)::text FROM hosts", os.Getenv("PEER_HOSTS"))
			expect(t, db, "SELECT count(*)::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
				os.Getenv("PEER_TABLES"))
		})
	}
}
