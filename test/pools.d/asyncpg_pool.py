"""asyncpg: a pool of 8 under load, with its prepared statements and its cache of types."""
import asyncio, os, sys
import asyncpg

REWINDS = 100
state = {"life": 0, "requests": 0, "stop": False}
wrong = []

# By load: the life in which its request began. Rows of an older one than all of these must be gone after a rewind.
begun = [0] * 8


async def load(pool, number):
    while not state["stop"]:
        mine = begun[number] = state["life"]
        try:
            async with pool.acquire() as c, c.transaction():
                id = await c.fetchval("INSERT INTO item (life, name) VALUES ($1, $2) RETURNING id", mine, "new")
                row = await c.fetchrow("SELECT life, mood, ARRAY[mood] AS moods FROM item WHERE id = $1", id)
                if row is None or row["life"] != mine or row["moods"] != ["good"]:
                    wrong.append(f"own row: {row}")
            state["requests"] += 1
        except Exception as e:
            wrong.append(f"request: {e!r}")


async def main():
    database = os.environ["PGDATABASE"]
    pool = await asyncpg.create_pool(min_size=8, max_size=8)
    admin = await asyncpg.connect(port=int(os.environ["ADMIN_PORT"]), database="postgres")
    loads = [asyncio.create_task(load(pool, number)) for number in range(8)]
    for i in range(1, REWINDS + 1):
        await asyncio.sleep(0.01)
        if i % 10 == 0:
            await pool.execute("ALTER TYPE mood ADD VALUE IF NOT EXISTS 'ugly'")
        oldest = min(begun)
        await admin.execute("SELECT testdb_rewind($1)", database)
        state["life"] = i
        kept, old = await pool.fetchrow("SELECT count(*) FILTER (WHERE life = -1), count(*) FILTER (WHERE life BETWEEN 0 AND $1 - 1) FROM item", oldest)
        if kept != 1000 or old != 0:
            wrong.append(f"after rewind {i}: {kept} {old}")
    state["stop"] = True
    await asyncio.gather(*loads)
    await pool.close()
    await admin.close()
    print(f"{REWINDS} rewinds, {state['requests']} requests, {len(wrong)} wrong", wrong[:5])
    sys.exit(1 if wrong or state["requests"] < REWINDS else 0)


asyncio.run(main())
