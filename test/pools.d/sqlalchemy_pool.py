"""SQLAlchemy's pool of 8 with psycopg, which prepares statements after their fifth use; 8 threads."""
import os, sys, threading, time
import psycopg
from sqlalchemy import create_engine, text

REWINDS = 100
state = {"life": 0, "requests": 0, "stop": False}
wrong = []

# By thread: the life in which its request began. Rows of an older one than all of these must be gone after a rewind.
begun = [0] * 8
lock = threading.Lock()
engine = create_engine("postgresql+psycopg://", pool_size=8, max_overflow=2)


def load(number):
    while not state["stop"]:
        mine = begun[number] = state["life"]
        if mine != state["life"]:
            continue
        try:
            with engine.begin() as c:
                id = c.execute(text("INSERT INTO item (life, name) VALUES (:life, 'new') RETURNING id"), {"life": mine}).scalar_one()
                row = c.execute(text("SELECT life, mood FROM item WHERE id = :id"), {"id": id}).one_or_none()
                if row is None or row.life != mine:
                    wrong.append(f"own row: {row}")
            with lock:
                state["requests"] += 1
        except Exception as e:
            wrong.append(f"request: {e!r}")


threads = [threading.Thread(target=load, args=[number]) for number in range(8)]
for t in threads:
    t.start()
admin = psycopg.connect(port=os.environ["ADMIN_PORT"], dbname="postgres", autocommit=True)
for i in range(1, REWINDS + 1):
    time.sleep(0.01)
    if i % 10 == 0:
        with engine.begin() as c:
            c.execute(text("ALTER TABLE item ADD COLUMN IF NOT EXISTS extra int DEFAULT 7"))
    oldest = min(begun)
    admin.execute("SELECT testdb_rewind(%s)", [os.environ["PGDATABASE"]])
    state["life"] = i
    with engine.begin() as c:
        kept, old = c.execute(text("SELECT count(*) FILTER (WHERE life = -1), count(*) FILTER (WHERE life BETWEEN 0 AND :n - 1) FROM item"), {"n": oldest}).one()
    if kept != 1000 or old != 0:
        wrong.append(f"after rewind {i}: {kept} {old}")
state["stop"] = True
for t in threads:
    t.join()
print(f"{REWINDS} rewinds, {state['requests']} requests, {len(wrong)} wrong", wrong[:5])
sys.exit(1 if wrong or state["requests"] < REWINDS else 0)
