package shop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.math.BigDecimal;
import java.util.Map;
import java.util.TreeMap;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.RegisterExtension;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** A database for each test. */
class OrderTest {
    @RegisterExtension
    FreshDatabase database = new FreshDatabase();

    @ParameterizedTest
    @CsvSource({"1, 30.00, 1", "1, 30.00, 2", "1, 30.00, 3", "1, 30.00, 4", "1, 30.00, 5",
            "2, 25.50, 1", "2, 25.50, 2", "2, 25.50, 3", "2, 25.50, 4", "2, 25.50, 5",
            "3, 12.00, 1", "3, 12.00, 2", "3, 12.00, 3", "3, 12.00, 4", "3, 12.00, 5"})
    void takesFromStock(long product, BigDecimal price, int amount) throws Exception {
        Shop shop = new Shop(database.connection);
        // Number 1, each time: the sequences are the template's, too.
        assertEquals(1, shop.placeOrder(1, Map.of(product, amount)));
        assertEquals(5 - amount, shop.inStock(product));
        assertEquals(price.multiply(BigDecimal.valueOf(amount)), shop.pay(1));
    }

    @Test
    void takesNothingIfSomethingIsMissing() throws Exception {
        Shop shop = new Shop(database.connection);
        assertThrows(Shop.OutOfStock.class, () -> shop.placeOrder(1, new TreeMap<>(Map.of(1L, 1, 2L, 6))));
        assertEquals(5, shop.inStock(1));
    }
}
