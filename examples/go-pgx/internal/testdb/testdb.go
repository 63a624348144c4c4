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

// The clones go with these connections: when this process ends, however it ends.
var admin = open("postgres")

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// ADMIN_URL tells where testdb is. What a test gets is another database on this server.
func uri(db string) *url.URL { return must(url.Parse(os.Getenv("ADMIN_URL"))).JoinPath("..", db) }

func open(db string) *pgxpool.Pool { return must(pgxpool.New(context.Background(), uri(db).String())) }

// call calls a function of testdb, and returns its result, with commas between if there are several columns.
func call(fn string, args ...any) (value string) {
	must(0, admin.QueryRow(context.Background(), "SELECT btrim(t::text, '()') FROM testdb_"+fn+" t", args...).Scan(&value))
	return value
}

// Of the processes that start together one makes the template, and the others wait here. After a change of a migration there is
// another one.
var template, build, _ = strings.Cut(call("template_begin('shop', md5($1))", migrations.Schema), ",")

func init() {
	if build == "t" {
		must(0, migrations.Up(context.Background(), uri(template).String()))
		call("template_finish($1)", template)
	}
}

const clone = "clone($1, scope => 'session', label => left($2, 100))"

// New returns a pool to a database for this test alone. Tests may be parallel.
func New(t testing.TB) *pgxpool.Pool {
	db := open(call(clone, template, t.Name()))
	at := db.Config().ConnConfig
	t.Cleanup(func() {
		db.Close()
		if t.Failed() {
			call("keep($1, '2 days')", at.Database)
			t.Logf(`Kept for 2 days: psql "host=%s port=%d user=%s dbname=%s"`, at.Host, at.Port, at.User, at.Database)
		} else {
			call("drop($1)", at.Database)
		}
	})
	return db
}

// One database for each package, which go test runs in a process of its own.
var shared = sync.OnceValue(func() *pgxpool.Pool { return open(call(clone, template, "shared")) })

// Shared returns a pool to the package's database, with the template's content again. Its connections stay open. Tests that use it
// can't be parallel.
func Shared() *pgxpool.Pool {
	call("rewind($1)", shared().Config().ConnConfig.Database)
	return shared()
}
