package shop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.RegisterExtension;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.springframework.beans.factory.annotation.Autowired;
import org.springframework.boot.test.context.SpringBootTest;

/** A database for each test. */
@SpringBootTest
class OrderKettleTest {
    @RegisterExtension
    FreshDatabase database = new FreshDatabase();

    @Autowired
    Shop shop;

    @ParameterizedTest
    @ValueSource(ints = {1, 2, 3, 4, 5})
    void takesFromStock(int amount) {
        // Number 1, each time: the sequences are the template's, too.
        assertEquals(1, shop.placeOrder(1, Map.of(1L, amount)));
        assertEquals(5 - amount, shop.inStock(1));
    }

    @Test
    void takesNothingIfSomethingIsMissing() {
        assertThrows(Shop.OutOfStock.class, () -> shop.placeOrder(1, Map.of(1L, 6)));
        assertEquals(5, shop.inStock(1));
        assertEquals(List.of(), shop.ordersOf(1));
    }
}
