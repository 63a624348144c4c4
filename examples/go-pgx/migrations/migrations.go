// Package migrations holds the schema.
package migrations

import (
	"embed"
	"strings"
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
