// A Vulkan layer that loses the device: from wait LOSE_AT_WAIT or submission LOSE_AT_SUBMIT on, counted from 1, calls
// return VK_ERROR_DEVICE_LOST, as after a hang or a removal. This happens only once: the layer writes the file
// LOSE_NOTE, and loses nothing if it exists. See tools/lose_device.sh.

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <vulkan/vk_layer.h>
#include <vulkan/vulkan.h>

static PFN_vkGetInstanceProcAddr next_instance_proc;
static PFN_vkGetDeviceProcAddr next_device_proc;
static PFN_vkWaitSemaphores next_wait_semaphores;
static PFN_vkWaitForFences next_wait_fences;
static PFN_vkQueueSubmit next_submit;
static VkInstance instance;
static atomic_long waits, submits;
static atomic_bool lost;

// Counts a call and returns whether the device is lost.
static int is_lost(atomic_long *calls, const char *variable) {
    const char *at = getenv(variable), *note = getenv("LOSE_NOTE");
    long call = ++*calls;
    if (at && note && call == atol(at) && access(note, F_OK) != 0) {
        FILE *file = fopen(note, "w");
        if (file) fclose(file);
        lost = 1;
    }
    return lost;
}

static VKAPI_ATTR VkResult VKAPI_CALL wait_semaphores(VkDevice device, const VkSemaphoreWaitInfo *info, uint64_t timeout) {
    return is_lost(&waits, "LOSE_AT_WAIT") ? VK_ERROR_DEVICE_LOST : next_wait_semaphores(device, info, timeout);
}

static VKAPI_ATTR VkResult VKAPI_CALL wait_fences(VkDevice device, uint32_t count, const VkFence *fences, VkBool32 all, uint64_t timeout) {
    return is_lost(&waits, "LOSE_AT_WAIT") ? VK_ERROR_DEVICE_LOST : next_wait_fences(device, count, fences, all, timeout);
}

static VKAPI_ATTR VkResult VKAPI_CALL submit(VkQueue queue, uint32_t count, const VkSubmitInfo *infos, VkFence fence) {
    return is_lost(&submits, "LOSE_AT_SUBMIT") ? VK_ERROR_DEVICE_LOST : next_submit(queue, count, infos, fence);
}

// A function may have two names; one that the device lacks has no address.
static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL device_proc(VkDevice device, const char *name) {
    PFN_vkVoidFunction next = next_device_proc(device, name);
    if (!next) return NULL;
    if (strcmp(name, "vkWaitSemaphores") == 0 || strcmp(name, "vkWaitSemaphoresKHR") == 0) {
        next_wait_semaphores = (PFN_vkWaitSemaphores)next;
        return (PFN_vkVoidFunction)wait_semaphores;
    }
    if (strcmp(name, "vkWaitForFences") == 0) {
        next_wait_fences = (PFN_vkWaitForFences)next;
        return (PFN_vkVoidFunction)wait_fences;
    }
    if (strcmp(name, "vkQueueSubmit") == 0) {
        next_submit = (PFN_vkQueueSubmit)next;
        return (PFN_vkVoidFunction)submit;
    }
    if (strcmp(name, "vkGetDeviceProcAddr") == 0) return (PFN_vkVoidFunction)device_proc;
    return next;
}

// The loader passes the functions of the next layer in a list in the arguments. The lists of instances and devices
// differ only in their types.
#define LINK(list, info, tag)                                                            \
    list *link = (list *)(info)->pNext;                                                  \
    while (link && !(link->sType == (tag) && link->function == VK_LAYER_LINK_INFO))      \
        link = (list *)link->pNext;                                                      \
    if (!link) return VK_ERROR_INITIALIZATION_FAILED

static VKAPI_ATTR VkResult VKAPI_CALL create_device(VkPhysicalDevice physical, const VkDeviceCreateInfo *info, const VkAllocationCallbacks *allocator, VkDevice *device) {
    LINK(VkLayerDeviceCreateInfo, info, VK_STRUCTURE_TYPE_LOADER_DEVICE_CREATE_INFO);
    PFN_vkGetInstanceProcAddr next = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
    next_device_proc = link->u.pLayerInfo->pfnNextGetDeviceProcAddr;
    link->u.pLayerInfo = link->u.pLayerInfo->pNext;
    lost = 0;
    return ((PFN_vkCreateDevice)next(instance, "vkCreateDevice"))(physical, info, allocator, device);
}

static VKAPI_ATTR VkResult VKAPI_CALL create_instance(const VkInstanceCreateInfo *info, const VkAllocationCallbacks *allocator, VkInstance *created) {
    LINK(VkLayerInstanceCreateInfo, info, VK_STRUCTURE_TYPE_LOADER_INSTANCE_CREATE_INFO);
    next_instance_proc = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
    link->u.pLayerInfo = link->u.pLayerInfo->pNext;
    VkResult result = ((PFN_vkCreateInstance)next_instance_proc(NULL, "vkCreateInstance"))(info, allocator, created);
    if (result == VK_SUCCESS) instance = *created;
    return result;
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL instance_proc(VkInstance of, const char *name) {
    if (strcmp(name, "vkCreateInstance") == 0) return (PFN_vkVoidFunction)create_instance;
    if (strcmp(name, "vkCreateDevice") == 0) return (PFN_vkVoidFunction)create_device;
    if (strcmp(name, "vkGetInstanceProcAddr") == 0) return (PFN_vkVoidFunction)instance_proc;
    if (strcmp(name, "vkGetDeviceProcAddr") == 0) return (PFN_vkVoidFunction)device_proc;
    return next_instance_proc(of, name);
}

VKAPI_ATTR VkResult VKAPI_CALL vkNegotiateLoaderLayerInterfaceVersion(VkNegotiateLayerInterface *interface) {
    interface->loaderLayerInterfaceVersion = 2;
    interface->pfnGetInstanceProcAddr = instance_proc;
    interface->pfnGetDeviceProcAddr = device_proc;
    interface->pfnGetPhysicalDeviceProcAddr = NULL;
    return VK_SUCCESS;
}
