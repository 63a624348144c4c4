// Go's database/sql over pgx: at most 8 connections under load, with pgx's cache of prepared statements.
package main

import (
	"database/sql"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
)

const rewinds = 100

var (
	life, requests atomic.Int64
	stop           atomic.Bool
	mutex          sync.Mutex
	wrong          []string

	// By load: the life in which its request began. Rows of an older one than all of these must be gone after a rewind.
	begun [8]atomic.Int64
)

func complain(format string, args ...any) {
	mutex.Lock()
	defer mutex.Unlock()
	wrong = append(wrong, fmt.Sprintf(format, args...))
}

func request(db *sql.DB, mine int64) error {
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	var id, found int64
	var mood string
	if err := tx.QueryRow("INSERT INTO item (life, name) VALUES ($1, $2) RETURNING id", mine, "new").Scan(&id); err != nil {
		return err
	}
	if err := tx.QueryRow("SELECT life, mood FROM item WHERE id = $1", id).Scan(&found, &mood); err != nil {
		return err
	}
	if found != mine {
		complain("own row: %d instead of %d", found, mine)
	}
	return tx.Commit()
}

func main() {
	db, err := sql.Open("pgx", "")
	if err != nil {
		panic(err)
	}
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	admin, err := sql.Open("pgx", "port="+os.Getenv("ADMIN_PORT")+" dbname=postgres")
	if err != nil {
		panic(err)
	}
	var loads sync.WaitGroup
	for i := 0; i < 8; i++ {
		loads.Add(1)
		go func() {
			defer loads.Done()
			for !stop.Load() {
				mine := life.Load()
				begun[i].Store(mine)
				if mine != life.Load() {
					continue
				}
				if err := request(db, mine); err != nil {
					complain("request: %v", err)
				} else {
					requests.Add(1)
				}
			}
		}()
	}
	for i := 1; i <= rewinds; i++ {
		time.Sleep(10 * time.Millisecond)
		if i%10 == 0 {
			if _, err := db.Exec("ALTER TABLE item ADD COLUMN IF NOT EXISTS extra int DEFAULT 7"); err != nil {
				complain("ALTER TABLE: %v", err)
			}
		}
		oldest := life.Load()
		for k := range begun {
			oldest = min(oldest, begun[k].Load())
		}
		if _, err := admin.Exec("SELECT testdb_rewind($1)", os.Getenv("PGDATABASE")); err != nil {
			complain("rewind: %v", err)
		}
		life.Store(int64(i))
		var kept, old int
		err := db.QueryRow("SELECT count(*) FILTER (WHERE life = -1), count(*) FILTER (WHERE life BETWEEN 0 AND $1 - 1) FROM item", oldest).Scan(&kept, &old)
		if err != nil || kept != 1000 || old != 0 {
			complain("after rewind %d: %d %d %v", i, kept, old, err)
		}
	}
	stop.Store(true)
	loads.Wait()
	fmt.Printf("%d rewinds, %d requests, %d wrong %v\n", rewinds, requests.Load(), len(wrong), wrong[:min(5, len(wrong))])
	if len(wrong) > 0 || requests.Load() < rewinds {
		os.Exit(1)
	}
}
