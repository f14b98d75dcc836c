"""Views as applications have them: reads, writes, a transaction around a view, a stream."""

from __future__ import annotations

from collections.abc import Iterator

from django.db import transaction
from django.db.models import Func, Sum, TextField, Value
from django.http import HttpRequest, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_GET, require_POST

from testproject.shop.models import Customer, Movement, Order, OrderLine, Product

PAGE = 20
NAP = 0.03  # seconds


@require_GET
def products(request: HttpRequest) -> HttpResponseBase:
    """List products with what is in stock of each; ``?after=SKU`` gives the next page."""
    page = Product.objects.filter(sku__gt=request.GET.get("after", "")).order_by("sku")
    stocked = page.annotate(stock=Sum("movements__quantity", default=0))
    rows = stocked.values("sku", "name", "price", "stock")[:PAGE]
    return JsonResponse({"products": list(rows)})


@transaction.non_atomic_requests  # Django has no transaction around an asynchronous view
async def product_count(request: HttpRequest) -> HttpResponseBase:
    """Count the products: an asynchronous view, so that ASGI servers have one to run."""
    return JsonResponse({"products": await Product.objects.acount()})


@require_GET
def order(request: HttpRequest, pk: int) -> HttpResponseBase:
    """Show an order with its lines."""
    found = get_object_or_404(Order.objects.select_related("customer"), pk=pk)
    lines = found.lines.select_related("product").order_by("pk")
    return JsonResponse(
        {
            "customer": found.customer.name,
            "lines": [{"sku": line.product.sku, "quantity": line.quantity} for line in lines],
        }
    )


@require_GET
def report(request: HttpRequest) -> HttpResponseBase:
    """Three reads, the second of which takes its time: one transaction under ATOMIC_REQUESTS."""
    customers = Customer.objects.count()
    nap = Func(Value(NAP), function="pg_sleep", output_field=TextField())
    dearest = Product.objects.order_by("-price").annotate(nap=nap).values_list("sku", "nap")[:1]
    found = {"dearest": next(iter(dearest))[0], "customers": customers}
    return JsonResponse({**found, "orders": Order.objects.count()})


@require_POST
@transaction.atomic  # exactly what ATOMIC_REQUESTS puts around every view
def place_order(request: HttpRequest) -> HttpResponseBase:
    """Order one product for the customer of that address; nothing is kept if a step fails."""
    email = request.POST.get("email", "")
    customer, _ = Customer.objects.get_or_create(email=email, defaults={"name": email})
    placed = Order.objects.create(customer=customer, token=request.POST.get("token", ""))
    product = get_object_or_404(Product, sku=request.POST.get("sku", ""))
    OrderLine.objects.create(order=placed, product=product, token=placed.token)
    return JsonResponse({"order": placed.pk}, status=201)


@require_POST
def record_movement(request: HttpRequest) -> HttpResponseBase:
    """Put goods into the stock: one row, in autocommit."""
    product = get_object_or_404(Product, sku=request.POST.get("sku", ""))
    try:
        quantity = int(request.POST.get("quantity", ""))
    except ValueError:
        return JsonResponse({"error": "quantity must be a whole number"}, status=400)
    token = request.POST.get("token", "")
    moved = Movement.objects.create(product=product, quantity=quantity, token=token)
    return JsonResponse({"movement": moved.pk}, status=201)


@require_GET
def export_movements(request: HttpRequest) -> HttpResponseBase:
    """All movements as CSV, read through a server-side cursor while the answer is under way."""
    return StreamingHttpResponse(_movements_as_csv(), content_type="text/csv")


def _movements_as_csv() -> Iterator[str]:
    yield "sku,quantity\n"
    moved = Movement.objects.order_by("pk").values_list("product__sku", "quantity")
    for sku, quantity in moved.iterator(chunk_size=100):
        yield f"{sku},{quantity}\n"
