package shop;

import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.util.stream.Stream;
import org.flywaydb.core.Flyway;
import org.flywaydb.core.api.MigrationInfo;
import org.junit.jupiter.api.extension.AfterEachCallback;
import org.junit.jupiter.api.extension.BeforeAllCallback;
import org.junit.jupiter.api.extension.BeforeEachCallback;
import org.junit.jupiter.api.extension.ExtensionContext;

/**
 * Databases for the tests, by testdb. Copy this file. In a test class,
 *
 * <ul>
 * <li>{@code @RegisterExtension TestDatabase database = new TestDatabase();} has a database for each test alone
 * <li>{@code @RegisterExtension static TestDatabase database = new TestDatabase();} has one for the class, which is what the
 * template is again before each test, while the connection stays open; such a class is {@code @Execution(SAME_THREAD)}
 * </ul>
 */
class TestDatabase implements BeforeAllCallback, BeforeEachCallback, AfterEachCallback {
    // Where testdb is. What a test gets is another database on this server.
    private static final String SERVER = System.getenv("ADMIN_URL");
    private static Connection admin;
    private static String template;

    /** To the test's database. */
    Connection connection;
    private String name;
    private boolean shared;

    private static String url(String database) {
        return SERVER.replaceFirst("\\w+://(.+):(.+)@(.+)/.*", "jdbc:postgresql://$3/" + database + "?user=$1&password=$2");
    }

    /** Calls a function of testdb, on the one connection that the clones go with: when this JVM ends, however it ends. */
    private static synchronized String call(String function, String value) throws Exception {
        if (admin == null) {
            admin = DriverManager.getConnection(url("postgres"));
        }
        PreparedStatement statement = admin.prepareStatement("SELECT " + function);
        statement.setString(1, value);
        ResultSet row = statement.executeQuery();
        row.next();
        return row.getString(1);
    }

    /** Of the JVMs that start together one makes it, and the others wait here. After a change of a migration there is another one. */
    private static synchronized String template() throws Exception {
        if (template == null) {
            Flyway flyway = Flyway.configure().dataSource(url("postgres"), null, null).load();
            String checksums = Stream.of(flyway.info().all()).map(MigrationInfo::getChecksum).toList().toString();
            String begin = "(SELECT concat_ws(' ', build, database) FROM testdb_template_begin('shop', md5(?)))";
            String[] answer = call(begin, checksums).split(" ");
            template = answer[1];
            if (answer[0].equals("t")) {
                Flyway.configure().dataSource(url(template), null, null).load().migrate();
                call("testdb_template_finish(?)", template);
            }
        }
        return template;
    }

    private void open() throws Exception {
        name = call("testdb_clone(?, scope => 'session')", template());
        connection = DriverManager.getConnection(url(name));
    }

    @Override
    public void beforeAll(ExtensionContext test) throws Exception {
        shared = true;
        open();
    }

    @Override
    public void beforeEach(ExtensionContext test) throws Exception {
        if (shared) {
            call("testdb_rewind(?)", name);
        } else {
            open();
        }
    }

    @Override
    public void afterEach(ExtensionContext test) throws Exception {
        if (shared) {
            return;
        }
        connection.close();
        boolean failed = test.getExecutionException().isPresent();
        call(failed ? "testdb_keep(?, '2 days')" : "testdb_drop(?)", name);
        if (failed) {
            System.out.printf("Kept for 2 days: psql \"%s\"%n", SERVER.replaceFirst("(.+):.+@(.+)/.*", "$1@$2/" + name));
        }
    }
}
