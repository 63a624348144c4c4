package shop;

import static java.sql.DriverManager.getConnection;
import static org.junit.jupiter.api.Assertions.assertDoesNotThrow;

import java.sql.Connection;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.stream.Stream;
import org.flywaydb.core.Flyway;
import org.flywaydb.core.api.MigrationInfo;
import org.junit.jupiter.api.extension.AfterEachCallback;
import org.junit.jupiter.api.extension.BeforeEachCallback;
import org.junit.jupiter.api.extension.ExtensionContext;

/**
 * Databases for the tests, by testdb. Copy this file, and delete the class at its end that you don't use. In a test class,
 *
 * <ul>
 * <li>{@code @RegisterExtension FreshDatabase database = new FreshDatabase();} has a database for each test alone
 * <li>{@code @RegisterExtension static SameDatabase database = new SameDatabase();} has one for the class, which is what the
 * template is again before each test, while the connection stays open; such a class is {@code @Execution(SAME_THREAD)}
 * </ul>
 */
class TestDatabase {
    // Where testdb is. What a test gets is another database on this server.
    static final String URL = System.getenv("ADMIN_URL")
            .replaceFirst("\\w+://(.+):(.+)@(.+)/.*", "jdbc:postgresql://$3/{db}?user=$1&password=$2");
    // The one connection that the clones go with: when this JVM ends, however it ends.
    private static final Connection ADMIN = assertDoesNotThrow(() -> getConnection(URL.replace("{db}", "postgres")));
    // Of the JVMs that start together one makes it, and the others wait here. After a change of a migration there is another one.
    private static final String TEMPLATE = assertDoesNotThrow(() -> {
        Flyway flyway = Flyway.configure().dataSource(URL.replace("{db}", "postgres"), null, null).load();
        String checksums = Stream.of(flyway.info().all()).map(MigrationInfo::getChecksum).toList().toString();
        ResultSet template = call("template_begin('shop', md5('%s'))", checksums);
        if (template.getBoolean("build")) {
            Flyway.configure().dataSource(URL.replace("{db}", template.getString(1)), null, null).load().migrate();
            call("template_finish('%s')", template.getString(1));
        }
        return template.getString(1);
    });

    final String name = assertDoesNotThrow(() -> call("clone('%s', scope => 'session')", TEMPLATE).getString(1));
    /** To the test's database. */
    final Connection connection = assertDoesNotThrow(() -> getConnection(URL.replace("{db}", name)));

    /** Calls a function of testdb. Its value is a name or numbers, in which there is nothing to quote. */
    static synchronized ResultSet call(String function, String value) throws SQLException {
        ResultSet row = ADMIN.createStatement().executeQuery("SELECT * FROM testdb_" + function.formatted(value));
        row.next();
        return row;
    }
}

/** One for each test alone. */
class FreshDatabase extends TestDatabase implements AfterEachCallback {
    @Override
    public void afterEach(ExtensionContext test) throws SQLException {
        connection.close();
        if (test.getExecutionException().isEmpty()) {
            call("drop('%s')", name);
        } else {
            call("keep('%s', '2 days')", name);
            System.out.printf("Kept for 2 days: psql \"%s\"%n", URL.replaceAll("jdbc:|&.*", "").replace("{db}", name));
        }
    }
}

/** One for the class, which is what the template is again before each test. */
class SameDatabase extends TestDatabase implements BeforeEachCallback {
    @Override
    public void beforeEach(ExtensionContext test) throws SQLException {
        call("rewind('%s')", name);
    }
}
