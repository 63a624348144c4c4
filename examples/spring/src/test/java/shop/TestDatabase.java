package shop;

import com.zaxxer.hikari.HikariDataSource;
import java.lang.annotation.Retention;
import java.lang.annotation.RetentionPolicy;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.Map;
import java.util.stream.Stream;
import org.flywaydb.core.Flyway;
import org.junit.jupiter.api.extension.AfterEachCallback;
import org.junit.jupiter.api.extension.BeforeEachCallback;
import org.junit.jupiter.api.extension.ExtendWith;
import org.junit.jupiter.api.extension.ExtensionContext;
import org.springframework.boot.test.context.SpringBootTest;
import org.springframework.boot.test.context.TestConfiguration;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Import;
import org.springframework.jdbc.core.simple.JdbcClient;
import org.springframework.jdbc.datasource.DelegatingDataSource;
import org.springframework.jdbc.datasource.SingleConnectionDataSource;
import org.springframework.test.context.junit.jupiter.SpringExtension;

/**
 * Databases for the tests, by testdb. Copy this file, and delete the annotation that you don't use, and what only it needs.
 *
 * <ul>
 * <li>{@code @FreshDatabase}: a database of its own for each test; the application context stays, its pool is another one
 * <li>{@code @SameDatabase}: one for each JVM, as the template is; the application context, its pool and the connections stay
 * </ul>
 */
@TestConfiguration
class TestDatabase {
    @Retention(RetentionPolicy.RUNTIME)
    @ExtendWith({SpringExtension.class, Fresh.class})
    @SpringBootTest(properties = "spring.flyway.enabled=false")
    @Import(TestDatabase.class)
    @interface FreshDatabase {
    }

    @Retention(RetentionPolicy.RUNTIME)
    @ExtendWith({SpringExtension.class, Same.class})
    @SpringBootTest(properties = "spring.flyway.enabled=false")
    @Import(TestDatabase.class)
    @interface SameDatabase {
    }

    // Where testdb is. What a test gets is another database on this server.
    private static final URI SERVER = URI.create(System.getenv().getOrDefault("ADMIN_URL",
            "postgresql://postgres:postgres@localhost:5435/postgres"));
    private static final String[] USER = SERVER.getUserInfo().split(":");
    private static final Path MIGRATIONS = Path.of("src/main/resources/db/migration");
    // The one connection that the clones go with: when this JVM ends, however it ends. No pool's, since a pool closes connections.
    private static final JdbcClient ADMIN = JdbcClient.create(new SingleConnectionDataSource(url("postgres"), USER[0], USER[1], true));
    private static final String TEMPLATE = template();
    private static final String WORKER = copy("worker");
    private static final HikariDataSource WORKER_POOL = pool(WORKER);

    private static String url(String database) {
        return "jdbc:postgresql://" + SERVER.getHost() + ":" + SERVER.getPort() + "/" + database;
    }

    /** The JVM that comes first makes it, and the others wait here. After a change of a migration there is another one. */
    private static String template() {
        Map<String, Object> row = ADMIN.sql("SELECT * FROM testdb_template_begin('shop', ?)").param(hash(MIGRATIONS)).query().singleRow();
        String database = (String) row.get("database");
        if ((boolean) row.get("build")) {
            Flyway.configure().dataSource(url(database), USER[0], USER[1]).locations("filesystem:" + MIGRATIONS).load().migrate();
            call("testdb_template_finish(?)", database);
        }
        return database;
    }

    private static String hash(Path folder) {
        try (Stream<Path> files = Files.list(folder)) {
            MessageDigest digest = MessageDigest.getInstance("SHA-256");
            for (Path file : files.sorted().toList()) {
                digest.update(Files.readAllBytes(file));
            }
            return HexFormat.of().formatHex(digest.digest());
        } catch (Exception e) {
            throw new IllegalStateException(e);
        }
    }

    private static String call(String function, Object... values) {
        return ADMIN.sql("SELECT " + function + "::text").params(values).query(String.class).optional().orElse(null);
    }

    private static String copy(String label) {
        return call("testdb_clone(?, scope => 'session', label => left(?, 100))", TEMPLATE, label);
    }

    private static HikariDataSource pool(String database) {
        HikariDataSource pool = new HikariDataSource();
        pool.setJdbcUrl(url(database));
        pool.setUsername(USER[0]);
        pool.setPassword(USER[1]);
        pool.setMaximumPoolSize(4);
        pool.setMinimumIdle(1);
        return pool;
    }

    /** The application's data source: the database of the test at hand. In one JVM tests run one after the other. */
    @Bean
    DelegatingDataSource dataSource() {
        return new DelegatingDataSource(WORKER_POOL);
    }

    private static DelegatingDataSource dataSource(ExtensionContext test) {
        return SpringExtension.getApplicationContext(test).getBean(DelegatingDataSource.class);
    }

    static class Fresh implements BeforeEachCallback, AfterEachCallback {
        private String database;
        private HikariDataSource pool;

        @Override
        public void beforeEach(ExtensionContext test) {
            database = copy(test.getDisplayName());
            pool = pool(database);
            dataSource(test).setTargetDataSource(pool);
        }

        @Override
        public void afterEach(ExtensionContext test) {
            dataSource(test).setTargetDataSource(WORKER_POOL);
            pool.close();
            if (test.getExecutionException().isEmpty()) {
                call("testdb_drop(?)", database);
                return;
            }
            call("testdb_keep(?, '2 days')", database);
            System.out.printf("Kept for 2 days: psql \"host=%s port=%d user=%s dbname=%s\"%n", SERVER.getHost(), SERVER.getPort(),
                    USER[0], database);
        }
    }

    static class Same implements BeforeEachCallback {
        @Override
        public void beforeEach(ExtensionContext test) {
            call("testdb_rewind(?)", WORKER);
        }
    }
}
