// Package testdb has databases for the tests, by the extension of that name. Copy it, and delete the half of it that you don't
// use.
//
//	New     a database of its own for each test; tests may be parallel
//	Shared  one database for each package, which go test runs in a process of its own: what the template is again before each
//	        test, while connections to it stay open; tests that use it can't be parallel
package testdb

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/shop/migrations"
)

var (
	ctx = context.Background()
	// The one connection that the clones go with: when this process ends, however it ends.
	admin    *pgx.Conn
	mutex    sync.Mutex
	template string
	shared   *pgxpool.Pool
)

func adminURL() string {
	if url := os.Getenv("ADMIN_URL"); url != "" {
		return url
	}
	return "postgresql://postgres:postgres@localhost:5435/postgres"
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// connect connects, and makes the template if it is not there. Of the processes that start together one makes it, and the
// others wait here. It gets its name last, so that one that was interrupted is never taken for whole.
var connect = sync.OnceFunc(func() {
	var schema strings.Builder
	for _, file := range must(fs.Glob(migrations.Files, "*.sql")) {
		schema.Write(must(migrations.Files.ReadFile(file)))
	}
	// It is named after what it is made from: after a change of a migration there is another one.
	template = fmt.Sprintf("shop_%x", sha256.Sum256([]byte(schema.String())))[:17]
	admin = must(pgx.Connect(ctx, adminURL()))
	must(admin.Exec(ctx, "SELECT pg_advisory_lock(hashtext('shop template'))"))
	var there bool
	row := admin.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", template)
	must(there, row.Scan(&there))
	if !there {
		must(admin.Exec(ctx, "DROP DATABASE IF EXISTS shop_building WITH (FORCE)"))
		must(admin.Exec(ctx, "CREATE DATABASE shop_building"))
		building := open("shop_building")
		must(building.Exec(ctx, schema.String()))
		must(building.Exec(ctx, "VACUUM (FREEZE, ANALYZE)"))
		building.Close()
		must(admin.Exec(ctx, "ALTER DATABASE shop_building RENAME TO "+template))
	}
	must(admin.Exec(ctx, "SELECT pg_advisory_unlock(hashtext('shop template'))"))
})

func open(database string) *pgxpool.Pool {
	config := must(pgxpool.ParseConfig(adminURL()))
	config.ConnConfig.Database = database
	return must(pgxpool.NewWithConfig(ctx, config))
}

func clone(label string) (name string) {
	connect()
	mutex.Lock()
	defer mutex.Unlock()
	row := admin.QueryRow(ctx, "SELECT testdb_clone($1, scope => 'session', label => left($2, 100))", template, label)
	must(name, row.Scan(&name))
	return name
}

func call(sql, name string) {
	mutex.Lock()
	defer mutex.Unlock()
	must(admin.Exec(ctx, sql, name))
}

// New returns a pool to a database for this test alone.
func New(t testing.TB) *pgxpool.Pool {
	name := clone(t.Name())
	pool := open(name)
	t.Cleanup(func() {
		pool.Close()
		if !t.Failed() {
			call("SELECT testdb_drop($1)", name)
			return
		}
		call("SELECT testdb_keep($1, '2 days')", name)
		server := admin.Config()
		t.Logf(`Kept for 2 days: psql "host=%s port=%d user=%s dbname=%s"`, server.Host, server.Port, server.User, name)
	})
	return pool
}

// Shared returns a pool to the package's database, with the template's content again.
func Shared(t testing.TB) *pgxpool.Pool {
	if shared == nil {
		shared = open(clone("shared"))
	}
	call("SELECT testdb_rewind($1)", shared.Config().ConnConfig.Database)
	return shared
}
