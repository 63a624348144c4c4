package shop;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.sql.Connection;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledIfEnvironmentVariable;
import org.junit.jupiter.api.extension.ExtendWith;

/** A test that fails, to see what is left of it. It needs to be asked for: SHOW_FAILURE=1 mvn test -Dtest=KeptTest */
@ExtendWith(TestDatabase.class)
@EnabledIfEnvironmentVariable(named = "SHOW_FAILURE", matches = ".+")
class KeptTest {
    @Test
    void fails(Connection db) throws Exception {
        Shop shop = new Shop(db);
        shop.placeOrder(1, Map.of(1L, 1));
        assertEquals(5, shop.inStock(1));
    }
}
