package shop;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledIfEnvironmentVariable;
import org.junit.jupiter.api.extension.RegisterExtension;
import org.springframework.beans.factory.annotation.Autowired;
import org.springframework.boot.test.context.SpringBootTest;

/** A test that fails, to see what is left of it. It needs to be asked for: SHOW_FAILURE=1 mvn test -Dtest=KeptTest */
@SpringBootTest
@EnabledIfEnvironmentVariable(named = "SHOW_FAILURE", matches = ".+")
class KeptTest {
    @RegisterExtension
    FreshDatabase database = new FreshDatabase();

    @Autowired
    Shop shop;

    @Test
    void fails() {
        shop.placeOrder(1, Map.of(1L, 1));
        assertEquals(5, shop.inStock(1));
    }
}
