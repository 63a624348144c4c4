package shop;

import com.zaxxer.hikari.HikariDataSource;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import javax.sql.DataSource;
import org.flywaydb.core.Flyway;
import org.flywaydb.core.api.MigrationInfo;
import org.junit.jupiter.api.extension.AfterEachCallback;
import org.junit.jupiter.api.extension.BeforeEachCallback;
import org.junit.jupiter.api.extension.ExtensionContext;
import org.springframework.jdbc.core.simple.JdbcClient;
import org.springframework.jdbc.datasource.DelegatingDataSource;
import org.springframework.jdbc.datasource.SingleConnectionDataSource;
import org.springframework.stereotype.Component;

/**
 * Databases for the tests, by testdb: a pool to one of them. Copy this file, and delete FreshDatabase or SameDatabase if you don't
 * use it. In a class that is a {@code @SpringBootTest},
 *
 * <ul>
 * <li>{@code @RegisterExtension FreshDatabase database = new FreshDatabase();} has a database for each test alone; the
 * application context stays, its pool is another one
 * <li>{@code @RegisterExtension static SameDatabase database = new SameDatabase();} has one for the class, or for all that inherit
 * this line, as the template is; the context, its pool and the connections stay
 * </ul>
 */
class TestDatabase extends HikariDataSource {
    // Where testdb is. What a test gets is another database on this server.
    private static final String URL = System.getenv("ADMIN_URL")
            .replaceFirst("\\w+://(.+):(.+)@(.+)/.*", "jdbc:postgresql://$3/postgres?user=$1&password=$2");
    // The one connection that the clones go with: when this JVM ends, however it ends. No pool's, since a pool closes connections.
    private static final JdbcClient ADMIN = JdbcClient.create(new SingleConnectionDataSource(URL, true));

    // The JVM that comes first makes the template, and the others wait here. After a change of a migration there is another one.
    private static final MigrationInfo[] SCRIPTS = Flyway.configure().dataSource(URL, null, null).load().info().all();
    private static final List<Integer> CHECKSUMS = Stream.of(SCRIPTS).map(MigrationInfo::getChecksum).toList();
    private static final Map<String, Object> TEMPLATE = call("template_begin('shop', md5(?))", CHECKSUMS.toString());
    static {
        String url = URL.replace("/postgres?", "/" + TEMPLATE.get("database") + "?");
        if ((boolean) TEMPLATE.get("build")) {
            Flyway.configure().dataSource(url, null, null).load().migrate();
            call("template_finish(?)", TEMPLATE.get("database"));
        }
    }

    static Map<String, Object> call(String function, Object value) {
        return ADMIN.sql("SELECT * FROM testdb_" + function).param(value).query().singleRow();
    }

    TestDatabase() {
        setPoolName((String) call("clone(?, scope => 'session') AS name", TEMPLATE.get("database")).get("name"));
        setJdbcUrl(URL.replace("/postgres?", "/" + getPoolName() + "?"));
        setMinimumIdle(1);
        CurrentDatabase.pool = this;
    }
}

/** The application's data source: the pool of the test at hand. In one JVM tests run one after the other. */
@Component
class CurrentDatabase extends DelegatingDataSource {
    static DataSource pool;

    @Override
    public DataSource getTargetDataSource() {
        return pool;
    }
}

/** One for each test alone. */
class FreshDatabase extends TestDatabase implements AfterEachCallback {
    @Override
    public void afterEach(ExtensionContext test) {
        close();
        if (test.getExecutionException().isEmpty()) {
            call("drop(?)", getPoolName());
        } else {
            call("keep(?, '2 days')", getPoolName());
            System.out.printf("Kept for 2 days: psql \"%s\"%n", getJdbcUrl().replaceAll("jdbc:|&.*", ""));
        }
    }
}

/** One that is what the template is again before each test. */
class SameDatabase extends TestDatabase implements BeforeEachCallback {
    @Override
    public void beforeEach(ExtensionContext test) {
        CurrentDatabase.pool = this;
        call("rewind(?)", getPoolName());
    }
}
