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
class OrderRakeTest {
    @RegisterExtension
    FreshDatabase database = new FreshDatabase();

    @Autowired
    Shop shop;

    @ParameterizedTest
    @ValueSource(ints = {1, 2, 3, 4, 5})
    void takesFromStock(int amount) {
        // Number 1, each time: the sequences are the template's, too.
        assertEquals(1, shop.placeOrder(1, Map.of(3L, amount)));
        assertEquals(5 - amount, shop.inStock(3));
    }

    @Test
    void takesNothingIfSomethingIsMissing() {
        assertThrows(Shop.OutOfStock.class, () -> shop.placeOrder(1, Map.of(3L, 6)));
        assertEquals(5, shop.inStock(3));
        assertEquals(List.of(), shop.ordersOf(1));
    }
}
