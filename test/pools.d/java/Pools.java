import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.sql.*;
import java.util.*;
import java.util.concurrent.atomic.*;

/** HikariCP: a pool of 8 under load, with server-side prepared statements from the first use on. */
public class Pools {
    static final int REWINDS = 100;
    static final AtomicInteger life = new AtomicInteger(), requests = new AtomicInteger();
    /** By load: the life in which its request began. Rows of an older one than all of these must be gone after a rewind. */
    static final AtomicIntegerArray begun = new AtomicIntegerArray(8);
    static volatile boolean stop = false;
    static final List<String> wrong = Collections.synchronizedList(new ArrayList<>());

    static String url(String port, String database) {
        return "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + port + "/" + database + "?prepareThreshold=1&user="
            + System.getenv("PGUSER") + "&password=" + System.getenv("PGPASSWORD");
    }

    static void request(HikariDataSource pool, int mine) throws SQLException {
        try (Connection c = pool.getConnection()) {
            c.setAutoCommit(false);
            long id;
            try (PreparedStatement s = c.prepareStatement("INSERT INTO item (life, name) VALUES (?, 'new') RETURNING id")) {
                s.setInt(1, mine);
                ResultSet r = s.executeQuery();
                r.next();
                id = r.getLong(1);
            }
            try (PreparedStatement s = c.prepareStatement("SELECT life, mood FROM item WHERE id = ?")) {
                s.setLong(1, id);
                ResultSet r = s.executeQuery();
                if (!r.next() || r.getInt(1) != mine)
                    wrong.add("own row is missing");
            }
            c.commit();
        }
    }

    public static void main(String[] args) throws Exception {
        String database = System.getenv("PGDATABASE");
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl(url(System.getenv("PGPORT"), database));
        config.setMaximumPoolSize(8);
        List<Thread> threads = new ArrayList<>();
        try (HikariDataSource pool = new HikariDataSource(config);
             Connection admin = DriverManager.getConnection(url(System.getenv("ADMIN_PORT"), "postgres"))) {
            for (int k = 0; k < 8; k++) {
                final int number = k;
                Thread t = new Thread(() -> {
                    while (!stop) {
                        int mine = life.get();
                        begun.set(number, mine);
                        if (mine != life.get())
                            continue;
                        try {
                            request(pool, mine);
                            requests.incrementAndGet();
                        } catch (SQLException e) {
                            wrong.add("request: " + e.getMessage());
                        }
                    }
                });
                t.start();
                threads.add(t);
            }
            for (int i = 1; i <= REWINDS; i++) {
                Thread.sleep(10);
                if (i % 10 == 0)
                    try (Connection c = pool.getConnection(); Statement s = c.createStatement()) {
                        s.execute("ALTER TABLE item ADD COLUMN IF NOT EXISTS extra int DEFAULT 7");
                    }
                int oldest = life.get();
                for (int k = 0; k < 8; k++)
                    oldest = Math.min(oldest, begun.get(k));
                try (Statement s = admin.createStatement()) {
                    s.execute("SELECT testdb_rewind('" + database + "')");
                }
                life.set(i);
                try (Connection c = pool.getConnection(); PreparedStatement s = c.prepareStatement(
                        "SELECT count(*) FILTER (WHERE life = -1), count(*) FILTER (WHERE life BETWEEN 0 AND ? - 1) FROM item")) {
                    s.setInt(1, oldest);
                    ResultSet r = s.executeQuery();
                    r.next();
                    if (r.getInt(1) != 1000 || r.getInt(2) != 0)
                        wrong.add("after rewind " + i + ": " + r.getInt(1) + " " + r.getInt(2));
                }
            }
            stop = true;
            for (Thread t : threads)
                t.join();
        }
        System.out.printf("%d rewinds, %d requests, %d wrong %s%n", REWINDS, requests.get(), wrong.size(),
            wrong.subList(0, Math.min(5, wrong.size())));
        System.exit(wrong.isEmpty() && requests.get() >= REWINDS ? 0 : 1);
    }
}
