package shop;

import com.zaxxer.hikari.HikariDataSource;
import java.lang.annotation.Retention;
import java.lang.annotation.RetentionPolicy;
import java.util.Map;
import java.util.stream.Stream;
import org.flywaydb.core.Flyway;
import org.flywaydb.core.api.MigrationInfo;
import org.junit.jupiter.api.extension.AfterEachCallback;
import org.junit.jupiter.api.extension.BeforeEachCallback;
import org.junit.jupiter.api.extension.ExtendWith;
import org.junit.jupiter.api.extension.ExtensionContext;
import org.springframework.boot.test.context.SpringBootTest;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Import;
import org.springframework.jdbc.core.simple.JdbcClient;
import org.springframework.jdbc.datasource.DelegatingDataSource;
import org.springframework.jdbc.datasource.SingleConnectionDataSource;
import org.springframework.test.context.junit.jupiter.SpringExtension;

/**
 * Databases for the tests, by testdb. Copy this file, and write one of these in the place of {@code @SpringBootTest}:
 *
 * <ul>
 * <li>{@code @DatabaseTest}: a database of its own for each test; the application context stays, its pool is another one
 * <li>{@code @DatabaseTest(same = true)}: one for each JVM, as the template is; the context, its pool and the connections stay
 * </ul>
 */
class TestDatabase implements BeforeEachCallback, AfterEachCallback {
    @Retention(RetentionPolicy.RUNTIME)
    @ExtendWith({SpringExtension.class, TestDatabase.class})
    @SpringBootTest(properties = "spring.flyway.enabled=false")
    @Import(TestDatabase.class)
    @interface DatabaseTest {
        boolean same() default false;
    }

    // Where testdb is. What a test gets is another database on this server.
    private static final String SERVER = System.getenv("ADMIN_URL");
    // The one connection that the clones go with: when this JVM ends, however it ends. No pool's, since a pool closes connections.
    private static final JdbcClient ADMIN = JdbcClient.create(new SingleConnectionDataSource(url("postgres"), true));
    private static final String TEMPLATE = template();
    private static final HikariDataSource WORKER = pool("worker");
    // The application's data source: the pool of the test at hand. In one JVM tests run one after the other.
    private static final DelegatingDataSource SOURCE = new DelegatingDataSource(WORKER);

    @Bean
    static DelegatingDataSource dataSource() {
        return SOURCE;
    }

    private static String url(String database) {
        return SERVER.replaceFirst("\\w+://(.+):(.+)@(.+)/.*", "jdbc:postgresql://$3/" + database + "?user=$1&password=$2");
    }

    private static Map<String, Object> call(String function, Object... values) {
        return ADMIN.sql("SELECT * FROM " + function).params(values).query().singleRow();
    }

    /** The JVM that comes first makes it, and the others wait here. After a change of a migration there is another one. */
    private static String template() {
        Flyway flyway = Flyway.configure().dataSource(url("postgres"), null, null).load();
        String checksums = Stream.of(flyway.info().all()).map(MigrationInfo::getChecksum).toList().toString();
        Map<String, Object> template = call("testdb_template_begin('shop', md5(?))", checksums);
        String name = (String) template.get("database");
        if ((boolean) template.get("build")) {
            Flyway.configure().dataSource(url(name), null, null).load().migrate();
            call("testdb_template_finish(?)", name);
        }
        return name;
    }

    /** A pool to a copy of the template, with its name. */
    private static HikariDataSource pool(String label) {
        String clone = "testdb_clone(?, scope => 'session', label => left(?, 100)) AS name";
        HikariDataSource pool = new HikariDataSource();
        pool.setPoolName((String) call(clone, TEMPLATE, label).get("name"));
        pool.setJdbcUrl(url(pool.getPoolName()));
        pool.setMaximumPoolSize(4);
        pool.setMinimumIdle(1);
        return pool;
    }

    @Override
    public void beforeEach(ExtensionContext test) {
        boolean same = test.getRequiredTestClass().getAnnotation(DatabaseTest.class).same();
        SOURCE.setTargetDataSource(same ? WORKER : pool(test.getDisplayName()));
        if (same) {
            call("testdb_rewind(?)", WORKER.getPoolName());
        }
    }

    @Override
    public void afterEach(ExtensionContext test) {
        HikariDataSource pool = (HikariDataSource) SOURCE.getTargetDataSource();
        if (pool == WORKER) {
            return;
        }
        pool.close();
        boolean failed = test.getExecutionException().isPresent();
        call(failed ? "testdb_keep(?, '2 days')" : "testdb_drop(?)", pool.getPoolName());
        if (failed) {
            System.out.printf("Kept for 2 days: psql \"%s\"%n", SERVER.replaceFirst("(.+):.+@(.+)/.*", "$1@$2/" + pool.getPoolName()));
        }
    }
}
