// Package migrations holds the schema.
package migrations

import (
	"context"
	"embed"
	"strings"

	"github.com/jackc/pgx/v5"
)

//go:embed *.sql
var files embed.FS

// Schema is all migrations, one after the other.
var Schema = read()

func read() string {
	var schema strings.Builder
	entries, err := files.ReadDir(".")
	if err != nil {
		panic(err)
	}
	for _, entry := range entries {
		sql, err := files.ReadFile(entry.Name())
		if err != nil {
			panic(err)
		}
		schema.Write(append(sql, '\n'))
	}
	return schema.String()
}

// Up brings an empty database to the schema, and leaves no connection to it.
func Up(ctx context.Context, url string) error {
	db, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer db.Close(ctx)
	_, err = db.Exec(ctx, Schema)
	return err
}
