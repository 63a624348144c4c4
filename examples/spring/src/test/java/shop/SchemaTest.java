package shop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.util.Map;
import java.util.concurrent.CompletableFuture;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.RegisterExtension;
import org.springframework.beans.factory.annotation.Autowired;
import org.springframework.boot.test.context.SpringBootTest;
import org.springframework.jdbc.core.simple.JdbcClient;

/** A database for each test. */
@SpringBootTest
class SchemaTest {
    @RegisterExtension
    FreshDatabase database = new FreshDatabase();

    @Autowired
    Shop shop;

    @Autowired
    JdbcClient db;

    @Test
    void mayChange() {
        db.sql("ALTER TABLE product ADD COLUMN weight integer NOT NULL DEFAULT 1").update();
        assertEquals(3, db.sql("SELECT sum(weight) FROM product").query(Integer.class).single());
    }

    @Test
    void isTheTemplates() {
        assertEquals(0, db.sql("SELECT count(*) FROM pg_attribute WHERE attname = 'weight'").query(Integer.class).single());
    }

    @Test
    void otherThreadsSeeWhatWasCommitted() throws Exception {
        // There is no transaction around the test.
        CompletableFuture.runAsync(() -> shop.placeOrder(2, Map.of(3L, 5))).get();
        assertThrows(Shop.OutOfStock.class, () -> shop.placeOrder(1, Map.of(3L, 1)));
    }
}
