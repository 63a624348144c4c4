package shop;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledIfEnvironmentVariable;
import org.junit.jupiter.api.extension.RegisterExtension;

/** A test that fails, to see what is left of it. It needs to be asked for: SHOW_FAILURE=1 mvn test -Dtest=KeptTest */
@EnabledIfEnvironmentVariable(named = "SHOW_FAILURE", matches = ".+")
class KeptTest {
    @RegisterExtension
    FreshDatabase database = new FreshDatabase();

    @Test
    void fails() throws Exception {
        Shop shop = new Shop(database.connection);
        shop.placeOrder(1, Map.of(1L, 1));
        assertEquals(5, shop.inStock(1));
    }
}
