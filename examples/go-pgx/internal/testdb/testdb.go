// Package testdb has databases for the tests, by the extension of that name. Copy it, and delete the half of it that you don't
// use.
package testdb

import (
	"context"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"example.com/shop/migrations"
)

// Where testdb is. What a test gets is another database on this server.
var server = must(url.Parse(os.Getenv("ADMIN_URL")))

// The clones go with these connections: when this process ends, however it ends.
var admin = open("postgres")

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func open(database string) *pgxpool.Pool {
	return must(pgxpool.New(context.Background(), server.JoinPath("..", database).String()))
}

// call calls a function of testdb, and returns its result.
func call(function string, values ...any) (result string) {
	must(0, admin.QueryRow(context.Background(), "SELECT "+function+"::text", values...).Scan(&result))
	return result
}

// Of the processes that start together one makes the template, and the others wait here. After a change of a migration there is
// another one.
var template = sync.OnceValue(func() string {
	begin := "(SELECT concat_ws(' ', build, database) FROM testdb_template_begin('shop', md5($1)))"
	build, name, _ := strings.Cut(call(begin, migrations.Schema), " ")
	if build == "t" {
		db := open(name)
		must(db.Exec(context.Background(), migrations.Schema))
		db.Close()
		call("testdb_template_finish($1)", name)
	}
	return name
})

const clone = "testdb_clone($1, scope => 'session', label => left($2, 100))"

// New returns a pool to a database for this test alone. Tests may be parallel.
func New(t testing.TB) *pgxpool.Pool {
	name := call(clone, template(), t.Name())
	db := open(name)
	t.Cleanup(func() {
		db.Close()
		if !t.Failed() {
			call("testdb_drop($1)", name)
			return
		}
		call("testdb_keep($1, '2 days')", name)
		t.Logf(`Kept for 2 days: psql "postgresql://%s@%s/%s"`, server.User.Username(), server.Host, name)
	})
	return db
}

// One database for each package, which go test runs in a process of its own.
var shared = sync.OnceValue(func() *pgxpool.Pool { return open(call(clone, template(), "shared")) })

// Shared returns a pool to the package's database, with the template's content again. Its connections stay open. Tests that use it
// can't be parallel.
func Shared() *pgxpool.Pool {
	call("testdb_rewind($1)", shared().Config().ConnConfig.Database)
	return shared()
}
