package shop;

import java.lang.annotation.Retention;
import java.lang.annotation.RetentionPolicy;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.HexFormat;
import java.util.stream.Stream;
import org.flywaydb.core.Flyway;
import org.junit.jupiter.api.extension.ExtensionContext;
import org.junit.jupiter.api.extension.ParameterContext;
import org.junit.jupiter.api.extension.ParameterResolver;

/**
 * Databases for the tests, by testdb. Copy this file. In a class with {@code @ExtendWith(TestDatabase.class)}, a test's parameter
 *
 * <ul>
 * <li>{@code Connection db} is a connection to a database for this test alone
 * <li>{@code @Rewound Connection db} is one to the class's, as the template is, through a connection that stays open; such a class
 * is {@code @Execution(SAME_THREAD)}
 * </ul>
 */
public class TestDatabase implements ParameterResolver {
    @Retention(RetentionPolicy.RUNTIME)
    public @interface Rewound {
    }

    // Where testdb is. What a test gets is another database on this server.
    private static final URI SERVER = URI.create(System.getenv().getOrDefault("ADMIN_URL",
            "postgresql://postgres:postgres@localhost:5435/postgres"));
    private static final String[] USER = SERVER.getUserInfo().split(":");
    private static final Path MIGRATIONS = Path.of("src/main/resources/db/migration");
    private static Connection admin;
    private static String template;

    private static String url(String database) {
        return "jdbc:postgresql://" + SERVER.getHost() + ":" + SERVER.getPort() + "/" + database;
    }

    private static Connection connect(String database) throws SQLException {
        return DriverManager.getConnection(url(database), USER[0], USER[1]);
    }

    /** Runs a statement on the one connection that the clones go with: when this JVM ends, however it ends. */
    private static synchronized String call(String sql, String... values) throws Exception {
        if (admin == null) {
            admin = connect("postgres");
            makeTemplate();
        }
        try (PreparedStatement statement = admin.prepareStatement(sql)) {
            for (int i = 0; i < values.length; i++) {
                statement.setString(i + 1, values[i]);
            }
            if (!statement.execute()) {
                return null;
            }
            ResultSet rows = statement.getResultSet();
            return rows.next() ? rows.getString(1) : null;
        }
    }

    /**
     * Makes the template, if it is not there. Of the JVMs that start together one makes it, and the others wait here. It is named
     * after what it is made from, and gets its name last, so that one that was interrupted is never taken for whole.
     */
    private static void makeTemplate() throws Exception {
        MessageDigest digest = MessageDigest.getInstance("SHA-256");
        try (Stream<Path> files = Files.list(MIGRATIONS)) {
            for (Path file : files.sorted().toList()) {
                digest.update(Files.readAllBytes(file));
            }
        }
        template = "shop_" + HexFormat.of().formatHex(digest.digest()).substring(0, 12);
        call("SELECT pg_advisory_lock(hashtext('shop template'))");
        if (call("SELECT 1 FROM pg_database WHERE datname = ?", template) == null) {
            call("DROP DATABASE IF EXISTS shop_building WITH (FORCE)");
            call("CREATE DATABASE shop_building");
            Flyway.configure().dataSource(url("shop_building"), USER[0], USER[1])
                    .locations("filesystem:" + MIGRATIONS).load().migrate();
            try (Connection building = connect("shop_building")) {
                building.createStatement().execute("VACUUM (FREEZE, ANALYZE)");
            }
            call("ALTER DATABASE shop_building RENAME TO " + template);
        }
        call("SELECT pg_advisory_unlock(hashtext('shop template'))");
    }

    /** A clone and a connection to it. JUnit closes it at the end of the test, or of the class, that it was made for. */
    private record Lease(String name, Connection connection, ExtensionContext context) implements AutoCloseable,
            ExtensionContext.Store.CloseableResource {
        static Lease of(ExtensionContext context) {
            try {
                call("SELECT 1");
                String name = call("SELECT testdb_clone(?, scope => 'session', label => left(?, 100))", template,
                        context.getDisplayName());
                return new Lease(name, connect(name), context);
            } catch (Exception e) {
                throw new IllegalStateException(e);
            }
        }

        @Override
        public void close() throws Exception {
            connection.close();
            if (context.getExecutionException().isEmpty()) {
                call("SELECT testdb_drop(?)", name);
                return;
            }
            call("SELECT testdb_keep(?, '2 days')", name);
            System.out.printf("Kept for 2 days: psql \"host=%s port=%d user=%s dbname=%s\"%n", SERVER.getHost(), SERVER.getPort(),
                    USER[0], name);
        }
    }

    @Override
    public boolean supportsParameter(ParameterContext parameter, ExtensionContext context) {
        return parameter.getParameter().getType() == Connection.class;
    }

    @Override
    public Connection resolveParameter(ParameterContext parameter, ExtensionContext context) {
        boolean rewound = parameter.isAnnotated(Rewound.class);
        ExtensionContext owner = rewound
                ? Stream.iterate(context, c -> c.getParent().get()).filter(c -> c.getTestMethod().isEmpty()).findFirst().get()
                : context;
        Lease lease = owner.getStore(ExtensionContext.Namespace.create(TestDatabase.class))
                .getOrComputeIfAbsent("lease", key -> Lease.of(owner), Lease.class);
        try {
            if (rewound) {
                call("SELECT testdb_rewind(?)", lease.name());
            }
        } catch (Exception e) {
            throw new IllegalStateException(e);
        }
        return lease.connection();
    }
}
